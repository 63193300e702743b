"""The look of every figure: one colour per net, axes that suit their values, panels by layer."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ics.analysis.frames import spread_out
from ics.plots import style

# Okabe & Ito's palette, told apart under every common colour blindness; its yellow is left out: too faint on white.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#555555"
BAND, FAINT_BAND = 0.30, 0.14
# On a linear axis a wider range shows its largest values alone.
WIDE = 30.0
MOST_MARKERS = 30

SITE_NAMES = {
    "input": "input",
    "preactivation": "pre-activation",
    "normalized": "normalised pre-activation (before gamma and beta)",
    "scaled": "normalised pre-activation (after gamma and beta)",
    "activation": "activation",
}

# The two nets that most figures compare have the two first colours everywhere.
_PREFERRED = {"standard": 0, "none": 0, "plain": 0, "batchnorm": 1, "bn": 1, "batch": 1}

_SETTINGS = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "figure.titlesize": 11.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 3.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "ics",  # without it ids are random, and a report of the same runs is another file each time
}

_P = ParamSpec("_P")


def net_colors(nets: Iterable[str]) -> dict[str, str]:
    """Return net to colour. The colour of a net depends on its name, not on the order of the nets.

    Two nets that would share a colour get different ones within one call. So draw all figures of a page with the
    colours of one call for all its nets.

    Example:
        >>> net_colors(["bn", "standard"]) == net_colors(["standard", "bn"])
        True
        >>> net_colors(["standard"])["standard"]
        '#D55E00'
    """
    taken: dict[str, int] = {}
    for net in sorted(set(nets), key=lambda net: (net.lower() not in _PREFERRED, net)):
        # crc32, not hash(): Python salts the hashes of texts anew in every process, and colours would change with them.
        wanted = _PREFERRED.get(net.lower(), zlib.crc32(net.encode()) % len(PALETTE))
        order = [(wanted + step) % len(PALETTE) for step in range(len(PALETTE))]
        # More nets than colours: they repeat, and markers no longer help; the caller should draw fewer.
        taken[net] = next((place for place in order if place not in taken.values()), wanted)
    return {net: PALETTE[place] for net, place in taken.items()}


def marker_of(color: str) -> str:
    """Return the marker that always goes with a colour, so that nets differ in black-and-white print too."""
    return MARKERS[PALETTE.index(color)] if color in PALETTE else "o"


def in_style(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Decorate a function to draw with the settings of this file; those of the caller are left as they are."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with settings():
            return draw(*args, **kwargs)

    return drawn


@contextmanager
def settings() -> Iterator[None]:
    """Apply the settings of every figure inside the context. They are also needed when a figure is saved."""
    with matplotlib.rc_context(rc={**sns.axes_style("ticks"), **sns.plotting_context("paper"), **_SETTINGS}):
        yield


def grid_of_axes(rows: int, columns: int, *, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    """Return a figure and its axes, shape (rows, columns). pyplot does not hold it, so nothing has to be closed."""
    figure = Drawing(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def step_axis(axes: Axes, steps: pd.Series) -> None:
    """Label the axis of optimizer steps, and make it logarithmic if the steps were spaced that way."""
    axes.set_xlabel("optimizer step")
    if len(steps) and steps.max() > 20 and steps.drop_duplicates().median() < steps.max() / 8:
        axes.set_xscale("symlog", linthresh=1, linscale=0.3)  # step 0, often the one of interest, has no logarithm
        axes.set_xlim(-0.2, steps.max() * 1.2)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))


def value_axis(axes: Axes, values: Iterable[Any]) -> None:
    """Make the value axis logarithmic if values are positive and differ by more than a factor of 30.

    Values of exactly 0 do not prevent this, although a logarithmic axis cannot show them.
    """
    flat = np.concatenate([np.asarray(one, dtype=np.float64).ravel() for one in values] or [np.empty(0)])
    flat = flat[np.isfinite(flat)]
    positive = flat[flat > 0]
    if not (flat < 0).any() and len(positive) and positive.max() > WIDE * positive.min():
        axes.set_yscale("log")


def draw_band(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, *, color: str, linestyle: str = "-", gid: str | None = None
) -> Line2D:
    """Draw the median `y` as a line and, where several runs were gathered, `y_low` to `y_high` as a band."""
    # Dashed lines are floors and second quantities: with markers they would pass for another net.
    marker = marker_of(color) if linestyle == "-" and len(rows) <= MOST_MARKERS else None
    (line,) = axes.plot(rows[x], rows[y], color=color, linestyle=linestyle, marker=marker, gid=gid)
    if (rows["num_runs"] > 1).any():
        alpha = BAND if linestyle == "-" else FAINT_BAND
        axes.fill_between(rows[x], rows[f"{y}_low"], rows[f"{y}_high"], color=color, alpha=alpha, linewidth=0)
    return line


def net_legend(
    figure: Figure, frame: pd.DataFrame, colors: Mapping[str, str], *, extra: Iterable[Any] = (), note: str = ""
) -> None:
    """Put one legend under the figure: a `note` on how to read it, the nets with their number of runs, `extra`."""
    handles: list[Any] = []
    for net, rows in frame.groupby("net", sort=False):
        color = colors[str(net)]
        label = f"{net} ({runs_text(rows['num_runs'])})"
        handles.append(Line2D([], [], color=color, marker=marker_of(color), label=label))
    handles += list(extra)
    bands = "Lines: median over runs; bands: smallest to largest." if (frame["num_runs"] > 1).any() else ""
    title = "\n".join(line for line in (bands, note) if line)
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 5), title=title or None, title_fontsize=8.0
    )
    legend.get_title().set(color=GREY, multialignment="center")


def runs_text(num_runs: pd.Series) -> str:
    """Return `n = 3`, or `n = 2 to 3` where the number of runs differs from place to place."""
    low, high = int(num_runs.min()), int(num_runs.max())
    return f"n = {high}" if low == high else f"n = {low} to {high}"


def zeros_note(panels: Iterable[Axes], values: pd.Series) -> str:
    """Say that values of exactly 0 are not drawn where a panel is logarithmic; else the empty string."""
    logarithmic = any(axes.get_yscale() == "log" for axes in panels)
    return "Values of exactly 0 have no place on a logarithmic axis." if logarithmic and (values == 0).any() else ""


def floor_handle() -> Line2D:
    """Return the legend's entry for noise floors."""
    return Line2D([], [], color=GREY, linestyle="--", label="noise floor")


def short(name: str, limit: int = 18) -> str:
    """Return a dotted layer name short enough for an axis: its end counts.

    Example:
        >>> short("encoder.layers.11.attention.out_proj")
        '…ttention.out_proj'
    """
    return name if len(name) <= limit else "…" + name[-(limit - 1) :].lstrip(".")


class Drawing(Figure):
    """A figure that a notebook can show although pyplot, which usually does that, does not know of it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


Place = tuple[int, int]


def layers_drawn(frame: pd.DataFrame, limit: int) -> tuple[list[Place], int]:
    """Return at most `limit` places (layer_index, call), evenly chosen by execution, and how many there are.

    Layers of different nets share a place where they stand at the same one in the order of execution.
    """
    known = sorted({(int(index), int(call)) for index, call in zip(frame["layer_index"], frame["call"], strict=True)})
    return [known[position] for position in spread_out(len(known), limit)], len(known)


def panel_rows(frame: pd.DataFrame, place: Place) -> pd.DataFrame:
    """Return the rows of one place."""
    return frame[(frame["layer_index"] == place[0]) & (frame["call"] == place[1])]


def panel_title(panel: pd.DataFrame) -> str:
    """Return the number and the names of the layers of a panel, and the call where it is not the first."""
    names = list(dict.fromkeys(panel["layer"]))
    index = int(panel["layer_index"].iloc[0]) if len(panel) else 0
    call = int(panel["call"].iloc[0]) if len(panel) and "call" in panel.columns else 0
    return f"{index}: " + "\n".join(style.short(name, 24) for name in names[:2]) + (f", call {call}" if call else "")


def panels_note(drawn: int, known: int) -> str:
    """Say that not all layers are drawn; the empty string where they are."""
    return f"{drawn} of {known} layers, evenly chosen in the order of execution." if drawn < known else ""
