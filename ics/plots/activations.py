"""Distributions over training: ridges, one above the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ics import analysis
from ics.analysis.frames import checked, chosen, nets_in, spread_out
from ics.errors import UsageError
from ics.plots import style

_OVERLAP = 1.35


@style.in_style
def distributions(
    frame: pd.DataFrame,
    *,
    site: str = "preactivation",
    layers: int = 4,
    steps: int = 6,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw how the distribution of a layer's values changes: a row per net, a column per layer, a ridge per step.

    Draws `ics.analysis.ridges`. Each ridge is a density scaled to its own peak. For several runs it is the median, with
    a band from min to max. Values that are exactly 0 have no density; a bar at 0 shows their share of all values (the
    height of a ridge is 100 %). The share of values beyond the axis is written at the right.

    Args:
        frame: rows of the table activations, of one run or several.
        site: `"input"`, `"preactivation"`, `"normalized"`, `"scaled"` or `"activation"`.
        layers: most layers drawn, evenly chosen in the order of execution.
        steps: most steps drawn, evenly chosen among the recorded ones.
        colors: net to colour; default: `ics.plots.net_colors`.

    Raises:
        SelectionError: a column is missing, or the site was not recorded.
        UsageError: no rows, or none with a histogram.
    """
    rows = chosen(checked(frame, "activations", ("site", "layer_index", "call")), "site", site)
    places = _places(rows)
    drawn = {net: [found[position] for position in spread_out(len(found), layers)] for net, found in places.items()}
    # Only what is drawn is worth a density: a net has many layers.
    wanted = pd.concat([_at(rows[rows["net"] == net], found) for net, found in drawn.items()])
    ridges = analysis.ridges(wanted, steps=steps)
    if ridges.empty:
        raise UsageError(
            f"expected distributions at site {site!r}, got none; type ics.plots.distributions(frame, site=...)"
        )
    nets = nets_in(ridges)
    colors = colors or style.net_colors(nets)
    columns = max(len(drawn[net]) for net in nets)
    size = {"width": 1.2 + 2.5 * max(columns, 2), "height": 1.2 + 2.7 * len(nets)}
    figure, grid = style.grid_of_axes(len(nets), columns, **size)
    figure.suptitle(f"Distribution of the {style.SITE_NAMES.get(site, site)} over training")
    for row, net in zip(grid, nets, strict=True):
        for axes, place in zip(row, drawn[net], strict=False):
            _draw_ridges(axes, _at(ridges[ridges["net"] == net], [place]), color=colors[net], net=net)
        for axes in row[len(drawn[net]) :]:
            axes.remove()
        row[0].set_ylabel(f"{net}\noptimizer step")
    most = max(len(found) for found in places.values())
    note = _note(columns, most, bool((ridges["zero_fraction"] > 0).any()))
    style.net_legend(figure, ridges, colors, note=note)
    return figure


def _draw_ridges(axes: Axes, ridges: pd.DataFrame, *, color: str, net: str) -> None:
    """Draw the ridges of one layer, the first step at the bottom."""
    steps = sorted(ridges["step"].unique())
    for base, step in enumerate(steps):
        ridge = ridges[ridges["step"] == step]
        # Later steps stand behind earlier ones: each ridge reaches up into the place of the next.
        order = {"zorder": 3 + 2 * (len(steps) - base)}
        _draw_ridge(axes, ridge, base, color=color, gid=f"{net}/{step}", **order)
    axes.set_yticks(range(len(steps)), [str(step) for step in steps])
    axes.set_ylim(-0.15, len(steps) - 1 + _OVERLAP + 0.25)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlim(ridges["x"].iloc[0], ridges["x"].iloc[-1])
    axes.set_xlabel("value")
    first = ridges.iloc[0]
    call = f", call {first['call']}" if first["call"] else ""
    axes.set_title(f"{first['layer_index']}: {style.short(str(first['layer']), 24)}{call}")


def _draw_ridge(axes: Axes, ridge: pd.DataFrame, base: int, *, color: str, gid: str, zorder: float) -> None:
    x, height = ridge["x"], base + _OVERLAP * ridge["height"].fillna(0.0)
    # White first: the lines of the ridges behind would run through this one.
    axes.fill_between(x, base, height, color="white", alpha=0.75, linewidth=0, zorder=zorder)
    axes.fill_between(x, base, height, color=color, alpha=style.BAND, linewidth=0, zorder=zorder)
    axes.plot(x, height, color=color, linewidth=1.0, zorder=zorder + 0.2, gid=gid)
    if (ridge["num_runs"] > 1).any():
        low, high = (base + _OVERLAP * ridge[f"height_{end}"].fillna(0.0) for end in ("low", "high"))
        axes.fill_between(x, low, high, color=color, alpha=style.BAND, linewidth=0, zorder=zorder + 0.1)
    shares = ridge.iloc[0]
    zeros, outside = shares["zero_fraction"], shares["below"] + shares["above"]
    text = []
    if zeros > 0:
        axes.vlines(0.0, base, base + _OVERLAP * zeros, color=style.GREY, linewidth=2.5, zorder=zorder + 0.3)
        text.append(f"{zeros:.0%} zero")
    if outside > 0.01:
        text.append(f"{outside:.0%} outside")
    if text:
        _annotate(axes, ", ".join(text), base, zorder)


def _annotate(axes: Axes, text: str, base: int, zorder: float) -> None:
    axes.annotate(
        text,
        (1.0, base + 0.08),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=6.5,
        color=style.GREY,
        zorder=zorder + 0.4,
    )


def _places(rows: pd.DataFrame) -> dict[str, list[tuple[Any, Any]]]:
    """Return per net the (layer, call) that were recorded, in the order of execution."""
    places = rows[["net", "layer_index", "layer", "call"]].drop_duplicates().sort_values(["layer_index", "call"])
    return {
        net: list(zip(found["layer"], found["call"], strict=True))
        for net in nets_in(rows)
        for found in [places[places["net"] == net]]
    }


def _at(rows: pd.DataFrame, places: list[tuple[Any, Any]]) -> pd.DataFrame:
    here = pd.MultiIndex.from_frame(rows[["layer", "call"]]).isin(places)
    return rows[here]


def _note(drawn: int, known: int, zeros: bool) -> str:
    parts = ["Each ridge is scaled to its own peak; each panel has its own axis."]
    if zeros:
        parts.append("Grey bar: share of values that are exactly 0 (full ridge = 100 %).")
    if drawn < known:
        parts.append(f"{drawn} of {known} places, evenly chosen in the order of execution.")
    return "\n".join(parts)
