"""Curvature over training, with the edge of stability."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ics import analysis
from ics.plots import style

_PANELS = {
    "hessian_max_eigenvalue": ("largest Hessian eigenvalue", "lambda_max  (loss / weight²)"),
    "batch_sharpness": ("batch sharpness: g·Hg / ||g||²", "(loss / weight²)"),
}


@style.in_style
def curvature(frame: pd.DataFrame, *, colors: Mapping[str, str] | None = None) -> Figure:
    """Draw the largest Hessian eigenvalue and the batch sharpness over the steps, each with 2/lr as a dashed line.

    Draws `ics.analysis.curvature_over_steps`. Lines are medians over runs, bands min to max.

    Args:
        frame: rows of the table curvature, of one run or several.
        colors: net to colour; default: `ics.plots.net_colors`.

    Raises:
        SelectionError: a column is missing.
        UsageError: no rows, or runs of one net differ in their learning rate.
    """
    values = analysis.curvature_over_steps(frame)
    colors = colors or style.net_colors(values["net"])
    figure, (panels,) = style.grid_of_axes(1, 2, width=8.4, height=3.9)
    figure.suptitle("Curvature of the loss on the training batch")
    for axes, (name, (title, label)) in zip(panels, _PANELS.items(), strict=True):
        for net, rows in values.groupby("net", sort=False):
            style.draw_band(axes, rows, "step", name, color=colors[str(net)], gid=f"{name}/{net}")
        draw_edges(axes, values, colors)
        axes.set_title(title)
        axes.set_ylabel(label)
        style.step_axis(axes, values["step"])
        style.value_axis(axes, [values[f"{quantity}{end}"] for quantity in (name, "two_over_lr") for end in _ENDS])
    style.net_legend(figure, values, colors, extra=[edge_handle()], note=_note(values))
    return figure


_ENDS = ("_low", "_high")


def draw_edges(axes: Axes, rows: pd.DataFrame, colors: Mapping[str, str]) -> None:
    """Draw 2/lr per net, or one grey line if all nets share it."""
    edges = {str(net): of_net for net, of_net in rows.groupby("net", sort=False) if of_net["two_over_lr"].notna().any()}
    # Lines of all colours on top of each other would look like the line of the last net.
    shared = len({(tuple(of_net["step"]), tuple(of_net["two_over_lr"])) for of_net in edges.values()}) == 1
    for net, of_net in list(edges.items())[: 1 if shared else None]:
        color = style.GREY if shared else colors[net]
        axes.plot(of_net["step"], of_net["two_over_lr"], color=color, linestyle="--", linewidth=1.1, gid=f"edge/{net}")


def edge_handle() -> Line2D:
    """Return the legend's entry for 2/lr."""
    return Line2D([], [], color=style.GREY, linestyle="--", label="2 / learning rate")


def _note(values: pd.DataFrame) -> str:
    missing = int(values["hessian_max_eigenvalue"].isna().sum())
    points = "1 point" if missing == 1 else f"{missing} points"
    return f"Gaps: at {points} in training no eigenvalue converged or was finite." if missing else ""
