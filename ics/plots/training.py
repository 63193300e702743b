"""Training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from ics import analysis
from ics.errors import UsageError
from ics.plots import style


@style.in_style
def training_curves(
    frame: pd.DataFrame, *, measures: Sequence[str] | None = None, colors: Mapping[str, str] | None = None
) -> Figure:
    """Draw the loss, and what else the loop logged, over the steps: a panel per measure, a line and band per net.

    Draws `ics.analysis.training_curves`.

    Args:
        frame: rows of the table steps, of one run or several.
        measures: columns to draw; default: the loss and all that the loop logged.
        colors: net to colour; default: `ics.plots.net_colors`.

    Raises:
        SelectionError: a column is missing.
        UsageError: no rows, or nothing was logged.
    """
    curves = analysis.training_curves(frame, measures=measures)
    if curves.empty:
        raise UsageError("expected a logged loss or other measure, got none; type step.log(loss=loss) in the loop")
    colors = colors or style.net_colors(curves["net"])
    names = list(dict.fromkeys(curves["measure"]))
    columns = min(max(len(names), 1), 3)
    rows = -(-max(len(names), 1) // columns)
    figure, grid = style.grid_of_axes(rows, columns, width=1.5 + 3.4 * columns, height=1.0 + 2.6 * rows)
    figure.suptitle("Training")
    for axes, name in zip(grid.flat, names, strict=False):
        panel = curves[curves["measure"] == name]
        for net, of_net in panel.groupby("net", sort=False):
            style.draw_band(axes, of_net, "step", "value", color=colors[str(net)], gid=f"{name}/{net}")
        width = int(panel["steps_averaged"].max())
        axes.set_title(name.replace("_", " ") + (f" (mean of {width} steps)" if width > 1 else ""))
        style.step_axis(axes, panel["step"])
        style.value_axis(axes, [panel["value_low"], panel["value_high"]])
    for axes in grid.flat[len(names) :]:
        axes.remove()
    style.net_legend(figure, curves, colors)
    return figure
