"""Recorded tables of two nets, and what was drawn of them: the lines, bands and texts of a figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ics import plots
from tests.analysis.synthetic import activations_frame, line_frame, shift_frame, steps_frame, table_of
from tests.analysis.synthetic_tables import attribution_frame, curvature_frame, drift_frame, normalization_frame

matplotlib.use("Agg")
NETS = ("standard", "bn")
COLORS = plots.net_colors(NETS)
MANY = [f"features.{number}" for number in range(20)]


def recorded(make: Callable[..., pd.DataFrame], name: str, sizes: tuple[float, float], num_seeds: int) -> pd.DataFrame:
    """Rows of `make` for each net and seed; the nets differ in the setting `name`."""
    nets = zip(NETS, sizes, strict=True)
    return table_of({(net, seed): make(**{name: size}, seed=seed) for net, size in nets for seed in range(num_seeds)})


STEPS = recorded(steps_frame, "scale", (0.8, 0.4), 3)
SHIFT = recorded(shift_frame, "shift", (0.8, 0.4), 3)
LINE = recorded(line_frame, "curvature", (8.0, 3.0), 3)
ACTIVATIONS = recorded(activations_frame, "drift", (0.8, 0.4), 3)
CURVATURE = recorded(curvature_frame, "curvature", (1.0, 0.3), 2)
DRIFT = recorded(drift_frame, "drift", (1.0, 0.3), 2)
ATTRIBUTION = recorded(attribution_frame, "alone", (1.0, 0.3), 2)
NORMALIZATION = recorded(normalization_frame, "gamma", (1.0, 0.3), 2)


def line(axes: Axes, gid: str) -> Line2D:
    """The one line of this name."""
    (found,) = [line for line in axes.get_lines() if line.get_gid() == gid]
    return found


def assert_draws(drawn: Line2D, rows: pd.DataFrame, y: str, *, net: str, x: str = "step") -> None:
    """The line holds the numbers of the rows, in the colour of the net."""
    np.testing.assert_array_equal(np.asarray(drawn.get_xdata(), float), rows[x].to_numpy(float))
    np.testing.assert_array_equal(np.asarray(drawn.get_ydata(), float), rows[y].to_numpy(float))
    assert to_hex(drawn.get_color()).upper() == COLORS[net].upper()


def band_heights(axes: Axes, color: str) -> list[tuple[float, float]]:
    """Lowest and highest value of each band of a colour."""
    bands = [band for band in axes.collections if to_hex(band.get_facecolor()[0]).upper() == color.upper()]
    extents = [np.concatenate([path.vertices[:, 1] for path in band.get_paths()]) for band in bands]
    return [(extent.min(), extent.max()) for extent in extents]


def texts(figure: Figure) -> str:
    """The legend: its title and its entries."""
    legend = figure.legends[0]
    return "\n".join([note(figure), *(text.get_text() for text in legend.get_texts())])


def note(figure: Figure) -> str:
    """The title of the legend, which says what a reader must know."""
    return figure.legends[0].get_title().get_text()


def layers_of(frame: pd.DataFrame) -> list[Any]:
    """The layers in the order of their rows."""
    return frame["layer"].drop_duplicates().tolist()
