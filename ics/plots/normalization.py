"""What BatchNorm does to the gradient that passes through it, and its gamma and beta over training."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ics import analysis
from ics.analysis.normalization import AFFINE
from ics.plots import style

_LABELS = {
    "change": "||dL/d(in)||² / ||dL/d(out)||²",
    "mean_share": "share projected away",
    "gamma": "gamma",
    "beta": "beta",
}
_PAIRS = {"change": "rescaling", "mean_share": "normalized_share"}
_NOTE = (
    "First row: solid the whole change, dashed what rescaling by gamma/sigma alone would make of it; the rest is the\n"
    "projections. Second row: solid the part along 1 (the mean), dashed the part along x-hat. Gamma and beta: median\n"
    "over channels, band from the 10th to the 90th percentile of channels."
)


@style.in_style
def normalization(frame: pd.DataFrame, *, layers: int = 4, colors: Mapping[str, str] | None = None) -> Figure:
    """Draw the smoothing budget of Thm 4.1 over the steps, and gamma and beta: a column per normalisation layer.

    Draws `ics.analysis.smoothing_over_steps`. First row: `change` (solid) and `rescaling` (dashed), with a line at 1;
    second: `mean_share` (solid) and `normalized_share` (dashed); third and fourth: `gamma` and `beta` with their 10th
    and 90th percentile over channels. A quantity that no layer has, such as the budget without BatchNorm in training
    mode, gets no row.

    Args:
        frame: rows of the table normalization, of one run or several.
        layers: most layers drawn, evenly chosen in the order of execution.
        colors: net to colour; default: `ics.plots.net_colors`.

    Raises:
        SelectionError: a column is missing.
        UsageError: no rows.
    """
    values = analysis.smoothing_over_steps(frame)
    colors = colors or style.net_colors(values["net"])
    drawn, known = style.layers_drawn(values, layers)
    names = [name for name in _LABELS if values[name].notna().any()] or ["change"]
    size = {"width": 1.2 + 2.5 * max(len(drawn), 2), "height": 2.0 + 1.75 * len(names)}
    figure, grid = style.grid_of_axes(len(names), len(drawn), **size, sharex=True, sharey="row")
    figure.suptitle("What normalisation does to the gradient, and its gamma and beta")
    for row, name in zip(grid, names, strict=True):
        for axes, place in zip(row, drawn, strict=True):
            for (net, layer), line in style.panel_rows(values, place).groupby(["net", "layer"], sort=False):
                _draw(axes, line, name, color=colors[str(net)], key=f"{net}/{layer}")
            if name == "change":
                axes.axhline(1.0, color=style.GREY, linewidth=0.8, linestyle=":")
        row[0].set_ylabel(_LABELS[name])
        if name not in AFFINE:
            both = [quantity for quantity in (name, _PAIRS[name]) if quantity in values]
            style.value_axis(row[0], [values[f"{quantity}{end}"] for quantity in both for end in ("_low", "_high")])
    for top, bottom, place in zip(grid[0], grid[-1], drawn, strict=True):
        top.set_title(style.panel_title(style.panel_rows(values, place)))
        style.step_axis(bottom, values["step"])
    note = "\n".join(line for line in (_NOTE, style.panels_note(len(drawn), known)) if line)
    dashed = Line2D([], [], color=style.GREY, linestyle="--", label="rescaling; along x-hat")
    style.net_legend(figure, values, colors, extra=[dashed], note=note)
    return figure


def _draw(axes: Axes, line: pd.DataFrame, name: str, *, color: str, key: str) -> None:
    if name in AFFINE:
        marker = style.marker_of(color) if len(line) <= style.MOST_MARKERS else None
        axes.plot(line["step"], line[name], color=color, marker=marker, gid=f"{name}/{key}")
        ends = (line[f"{name}_p10"], line[f"{name}_p90"])
        axes.fill_between(line["step"], *ends, color=color, alpha=style.BAND, linewidth=0)
        return
    for quantity, linestyle in ((name, "-"), (_PAIRS[name], "--")):
        if line[quantity].notna().any():
            gid = f"{quantity}/{key}"
            style.draw_band(axes, line, "step", quantity, color=color, linestyle=linestyle, gid=gid)
