"""The loss landscape along the gradient, as in Fig. 4 of Santurkar et al. 2018."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ics import analysis
from ics.plots import style
from ics.plots.curvature import draw_edges, edge_handle
from ics.schema import WHOLE_NET


@style.in_style
def landscape(
    frame: pd.DataFrame,
    *,
    direction: str = "gradient",
    layer: str = WHOLE_NET,
    etas: tuple[float, float] | None = None,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw loss, gradient predictiveness and effective beta along a direction, over the steps.

    Draws `ics.analysis.landscape_over_steps`. In the first two panels the band of a net goes from the smallest to the
    largest value over the step size eta (median over runs), and its faint rim to the extremes over runs. The line in
    the first panel is the loss at the point itself. The third panel shows the largest ||grad L(w_eta) - g|| /
    ||w_eta - w|| with its band over runs, and 2/lr as a dashed line.

    Args:
        frame: rows of the table gradient_line, of one run or several.
        direction: `"gradient"`, `"update"` or `"random"`.
        layer: `"(all)"` for lines along which the whole net moved, or the layer that moved alone.
        etas: use only step sizes in this closed range.
        colors: net to colour; default: `ics.plots.net_colors`.

    Raises:
        SelectionError: a column is missing, or the direction or layer was not recorded.
        UsageError: no rows, or runs of one net differ in their learning rate.
    """
    bands = analysis.landscape_over_steps(frame, direction=direction, layer=layer, etas=etas)
    colors = colors or style.net_colors(bands["net"])
    figure, (panels,) = style.grid_of_axes(1, 3, width=10.5, height=3.9)
    moved = "" if layer == WHOLE_NET else f" of {layer} alone"
    figure.suptitle(f"Landscape along the {direction}{moved}, {_eta_range(bands)}")
    for net, rows in bands.groupby("net", sort=False):
        color = colors[str(net)]
        _draw_range(panels[0], rows, "loss", color, str(net))
        panels[0].plot(rows["step"], rows["loss_start"], color=color, linewidth=1.2, gid=f"loss_start/{net}")
        _draw_range(panels[1], rows, "gradient_change", color, str(net))
        style.draw_band(panels[2], rows, "step", "beta_max", color=color, gid=f"beta/{net}")
    draw_edges(panels[2], bands, colors)
    panels[0].set_title("loss: min to max over eta")
    panels[1].set_title("change of the gradient: min to max")
    panels[2].set_title("effective beta: max of change / distance")
    panels[0].set_ylabel("L(w_eta)  (loss)")
    panels[1].set_ylabel("||grad L(w_eta) - g||  (loss / weight)")
    panels[2].set_ylabel("beta  (loss / weight²)")
    for axes, names in zip(panels, (("loss_min", "loss_max"), _CHANGES, ("beta_max", "two_over_lr")), strict=True):
        style.value_axis(axes, [bands[f"{name}{end}"] for name in names for end in ("_low", "_high")])
        style.step_axis(axes, bands["step"])
    missing = int(bands["loss_max"].isna().sum())
    points = "1 point" if missing == 1 else f"{missing} points"
    note = f"Gaps: at {points} in training the largest loss was not a number." if missing else ""
    style.net_legend(figure, bands, colors, extra=[edge_handle()], note=note)
    return figure


_CHANGES = ("gradient_change_min", "gradient_change_max")


def _draw_range(axes: Axes, rows: pd.DataFrame, name: str, color: str, net: str) -> None:
    """Fill between the smallest and the largest value over eta: the median run, and faintly all runs."""
    low, high = f"{name}_min", f"{name}_max"
    axes.plot(rows["step"], rows[low], color=color, linewidth=0.7, gid=f"{low}/{net}")
    axes.plot(rows["step"], rows[high], color=color, linewidth=0.7, gid=f"{high}/{net}")
    axes.fill_between(rows["step"], rows[low], rows[high], color=color, alpha=style.BAND, linewidth=0)
    if (rows["num_runs"] > 1).any():
        ends = (rows[f"{low}_low"], rows[f"{high}_high"])
        axes.fill_between(rows["step"], *ends, color=color, alpha=style.FAINT_BAND, linewidth=0)


def _eta_range(bands: pd.DataFrame) -> str:
    low, high = bands["eta_min_low"].min(), bands["eta_max_high"].max()
    return f"eta = {low:.3g} to {high:.3g}"
