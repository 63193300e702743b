"""The internal covariate shift of Santurkar et al. 2018, with its noise floor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ics import analysis
from ics.analysis.frames import spread_out
from ics.analysis.gradient_shift import MEASURES
from ics.plots import style

_LABELS = {
    "l2": "||G - G'||\n(loss / weight)",
    "cosine": "cos(G, G')",
    "relative": "||G - G'|| / ||G||",
}
_FIRST = "Nothing is updated before the first layer: its shift is exactly 0 and its cosine 1, and it is not drawn."


@style.in_style
def gradient_shift(
    frame: pd.DataFrame, *, parameters: str = "weight", layers: int = 4, colors: Mapping[str, str] | None = None
) -> Figure:
    """Draw the shift over the steps: a row per measure (l2, cosine, relative), a column per layer.

    Draws `ics.analysis.shift_over_steps`. Lines are medians over runs, bands run from min to max, and dashed lines are
    the noise floor: the same measure between the gradients of two batches at the same weights. Layers of different nets
    share a column if they have the same place in the order of execution.

    Args:
        frame: rows of the table gradient_shift, of one run or several.
        parameters: `"weight"`, or `"all"` parameters of a layer.
        layers: most layers drawn, evenly chosen in the order of execution.
        colors: net to colour; default: `ics.plots.net_colors`.

    Raises:
        SelectionError: a column is missing, or no row has these parameters.
        UsageError: no rows.
    """
    shifts = analysis.shift_over_steps(frame, parameters=parameters)
    colors = colors or style.net_colors(shifts["net"])
    indices = sorted(shifts["layer_index"].unique())
    # A net of a single layer has no other: its zeros say more than an empty figure.
    later = indices[1:] or indices
    drawn = [later[position] for position in spread_out(len(later), layers)]
    size = {"width": 1.2 + 2.5 * max(len(drawn), 2), "height": 7.4}
    figure, grid = style.grid_of_axes(3, len(drawn), **size, sharex=True, sharey="row")
    figure.suptitle(f"Gradient shift of each layer's {_of(parameters)}, over training")
    for row, measure in zip(grid, MEASURES, strict=True):
        of_measure = shifts[shifts["measure"] == measure]
        for axes, index in zip(row, drawn, strict=True):
            panel = of_measure[of_measure["layer_index"] == index]
            _draw(axes, panel, "step", colors)
            axes.set_xlabel("")
            if measure == "l2":
                axes.set_title(style.panel_title(panel))
        _scale(row[0], of_measure[of_measure["layer_index"].isin(drawn)], measure)
    for axes in grid[-1]:
        style.step_axis(axes, shifts["step"])
    chosen = (
        f"{len(drawn)} of {len(indices)} layers, evenly chosen in the order of execution.\n" if later != drawn else ""
    )
    note = chosen + (_FIRST if len(indices) > 1 else "") + _zeros(grid.flat, shifts[shifts["layer_index"].isin(drawn)])
    style.net_legend(figure, shifts, colors, extra=[style.floor_handle()], note=note)
    return figure


@style.in_style
def gradient_shift_by_layer(
    frame: pd.DataFrame, *, parameters: str = "weight", colors: Mapping[str, str] | None = None
) -> Figure:
    """Draw the shift of every layer, in the order of execution: median over steps, then over runs, band min to max.

    Draws `ics.analysis.shift_by_layer`. Arguments and errors as `gradient_shift`.
    """
    shifts = analysis.shift_by_layer(frame, parameters=parameters)
    colors = colors or style.net_colors(shifts["net"])
    figure, grid = style.grid_of_axes(1, 3, width=10.5, height=3.9)
    figure.suptitle(f"Gradient shift by layer ({_of(parameters)}; median over steps)")
    first, num_layers = shifts["layer_index"].min(), shifts["layer_index"].nunique()
    for axes, measure in zip(grid[0], MEASURES, strict=True):
        panel = shifts[(shifts["measure"] == measure) & ((shifts["layer_index"] > first) | (num_layers == 1))]
        _draw(axes, panel, "layer_index", colors)
        _scale(axes, panel, measure)
        _layer_axis(axes, panel)
    note = (_FIRST if num_layers > 1 else "") + _zeros(grid.flat, shifts[shifts["layer_index"] > first])
    style.net_legend(figure, shifts, colors, extra=[style.floor_handle()], note=note)
    return figure


def _draw(axes: Axes, panel: pd.DataFrame, x: str, colors: Mapping[str, str]) -> None:
    for net, rows in panel.groupby("net", sort=False):
        color = colors[str(net)]
        for quantity, linestyle in (("shift", "-"), ("floor", "--")):
            if rows[quantity].notna().any():
                gid = f"{quantity}/{net}"
                style.draw_band(axes, rows, x, quantity, color=color, linestyle=linestyle, gid=gid)


def _scale(axes: Axes, panel: pd.DataFrame, measure: str) -> None:
    axes.set_ylabel(_LABELS[measure])
    if measure == "cosine":  # linear, as it may be negative, and up to 1 in every figure, as that is no shift
        values = panel[["shift_low", "floor_low"]].min().min()
        axes.set_ylim(max(values - 0.1, -1.05) if pd.notna(values) else -1.05, 1.05)
    else:
        style.value_axis(axes, [panel[name] for name in ("shift_low", "shift_high", "floor_low", "floor_high")])


def _zeros(panels: Iterable[Axes], shifts: pd.DataFrame) -> str:
    logarithmic = any(axes.get_yscale() == "log" for axes in panels)
    missing = ((shifts["shift"] == 0) & (shifts["measure"] != "cosine")).any()
    return "\nShifts of exactly 0 have no place on a logarithmic axis." if logarithmic and missing else ""


def _layer_axis(axes: Axes, panel: pd.DataFrame) -> None:
    names: dict[Any, Any] = panel.groupby("layer_index")["layer"].agg(lambda layers: sorted(set(layers))).to_dict()
    if len(names) <= 8 and all(len(layers) == 1 for layers in names.values()):
        axes.set_xticks(list(names), [style.short(layers[0], 14) for layers in names.values()], rotation=40, ha="right")
        axes.set_xlabel("layer, in order of execution")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("layer: place in the order of execution")


def _of(parameters: str) -> str:
    return {"weight": "weight", "all": "parameters"}.get(parameters, parameters)
