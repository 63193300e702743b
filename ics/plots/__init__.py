"""Figures that draw exactly what analysis returns, and the report that gathers them on one page."""

from ics.plots.budget import normalization
from ics.plots.curves import training_curves
from ics.plots.drifts import drift
from ics.plots.edges import curvature
from ics.plots.forest import forest
from ics.plots.lines import landscape
from ics.plots.matrix import attribution
from ics.plots.report import write_report
from ics.plots.ridge import distributions
from ics.plots.shifts import gradient_shift, gradient_shift_by_layer
from ics.plots.style import net_colors

__all__ = [
    "attribution",
    "curvature",
    "distributions",
    "drift",
    "forest",
    "gradient_shift",
    "gradient_shift_by_layer",
    "landscape",
    "net_colors",
    "normalization",
    "training_curves",
    "write_report",
]
