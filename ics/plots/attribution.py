"""Which earlier layer's update moved a layer's gradient, as a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure

from ics import analysis
from ics.errors import UsageError
from ics.plots import style
from ics.schema import REMAINDER

# With more layers the numbers in the cells, and the names at the axes, run into each other.
_MOST_TEXTS, _MOST_LABELS = 8, 12
_NOTE = (
    "Rows and columns in the order of execution. Shares of a row add up to 1 at each step of a run; negative: a part\n"
    "pointing against the whole shift. Last column: what layers do only together. Grey: not updated in that shift."
)


@style.in_style
def attribution(
    frame: pd.DataFrame,
    *,
    parameters: str = "weight",
    step: int | None = None,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a matrix per net: a row is the layer whose gradient shifted, a column the earlier layer that was updated.

    Draws `share` of `ics.analysis.attribution_shares`: <p, s> / ||s||^2 for the whole shift s and its part p from one
    source alone. The last column is the remainder, what layers do only together. The layer that runs first has no row,
    and a source has no cell in the rows up to its own.

    Args:
        frame: rows of the table attribution, of one run or several.
        parameters: `"weight"`, or `"all"` parameters of a layer.
        step: a measured step; default the median over all of them.
        colors: net to colour of its title; default: `ics.plots.net_colors`.

    Raises:
        SelectionError: a column is missing, or no row has these parameters or this step.
        UsageError: no rows, or none with a shift.
    """
    shares = analysis.attribution_shares(frame, parameters=parameters, step=step)
    colors = colors or style.net_colors(shares["net"])
    matrices = {net: matrix for net, matrix in _matrices(shares).items() if matrix.size}
    if not matrices:
        raise UsageError(
            "expected a layer whose gradient shifted, got none; type ics.plots.attribution(frame, step=...)"
        )
    largest = max(max(matrix.shape) for matrix in matrices.values())
    side = min(max(0.5 * largest, 2.4), 5.0)
    columns = min(len(matrices), 3 if side < 3.4 else 2)
    rows = -(-len(matrices) // columns)
    size = {"width": 1.4 + (side + 0.9) * columns, "height": 1.7 + (side + 0.7) * rows}
    figure, grid = style.grid_of_axes(rows, columns, **size)
    when = "median over steps" if step is None else f"step {step}"
    figure.suptitle(f"Where the shift of each layer's {_of(parameters)} comes from ({when})")
    for axes, (net, matrix) in zip(grid.flat, matrices.items(), strict=False):
        image = _draw(axes, matrix, gid=f"share/{net}")
        num_runs = style.runs_text(shares[shares["net"] == net]["num_runs"])
        axes.set_title(f"{net} ({num_runs})", color=colors[net], fontweight="bold")
    for axes in grid.flat[len(matrices) :]:
        axes.remove()
    beyond = any((matrix.abs() > 1).any().any() for matrix in matrices.values())
    bar = figure.colorbar(image, ax=list(figure.axes), shrink=0.75, extend="both" if beyond else "neither")
    bar.set_ticks([-1, -0.5, -0.1, 0, 0.1, 0.5, 1])
    bar.set_label("share of the shift")
    figure.supxlabel(_NOTE, fontsize=8.0, color=style.GREY)
    return figure


def _matrices(shares: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return per net its shares: a row per layer that shifted, a column per source, the remainder last."""
    found = {}
    for net, rows in shares.groupby("net", sort=False):
        defined = rows[rows["share"].notna()]
        names = (
            rows.set_index("layer_index")["layer"].to_dict() | rows.set_index("source_index")["source_layer"].to_dict()
        )
        matrix = defined.pivot(index="layer_index", columns="source_index", values="share")
        sources = [int(index) for index in matrix.columns]
        order = sorted(sources, key=lambda index: (index < 0, index))
        matrix = matrix[order].set_axis([_label(index, names) for index in order], axis=1)
        found[str(net)] = matrix.set_axis([_label(index, names) for index in matrix.index], axis=0)
    return found


def _label(index: int, names: Mapping[Any, str]) -> str:
    return REMAINDER if index < 0 else f"{index}: {style.short(names[index], 14)}"


def _draw(axes: Axes, matrix: pd.DataFrame, *, gid: str) -> Any:
    # Two hues that part at 0, because shares may be negative, and grey where there is none, which is no share of 0.
    palette = matplotlib.colormaps["PuOr_r"].with_extremes(bad="#EDEDED")
    image = axes.imshow(np.ma.masked_invalid(matrix.to_numpy()), cmap=palette, norm=_scale(), gid=gid, aspect="auto")
    axes.grid(visible=False)
    rows, columns = list(matrix.index), list(matrix.columns)
    axes.set_yticks(_thinned(rows), [rows[position] for position in _thinned(rows)])
    tilted: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(_thinned(columns), [columns[position] for position in _thinned(columns)], **tilted)
    axes.set_ylabel("layer whose gradient shifted")
    axes.set_xlabel("layer that was updated")
    # A gap in front of the remainder, which is no layer.
    axes.axvline(matrix.shape[1] - 1.5, color="white", linewidth=3)
    if max(matrix.shape) <= _MOST_TEXTS:
        for (row, column), value in np.ndenumerate(matrix.to_numpy()):
            if np.isfinite(value):
                color = "white" if abs(value) > 0.5 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    return image


def _scale() -> FuncNorm:
    """Colour by the square root of the share: among many layers most shares are small, and a sole source has 1."""
    return FuncNorm(
        (lambda share: np.sign(share) * np.sqrt(np.abs(share)), lambda root: np.sign(root) * root**2), vmin=-1, vmax=1
    )


def _thinned(labels: list[str]) -> list[int]:
    """Return the positions that are labelled: at an even distance, and the remainder."""
    num_layers = len(labels) - (labels[-1] == REMAINDER)
    distance = -(-num_layers // _MOST_LABELS)
    return [*range(0, num_layers, distance), *range(num_layers, len(labels))]


def _of(parameters: str) -> str:
    return {"weight": "weight", "all": "parameters"}.get(parameters, parameters)
