"""Figures that draw exactly what analysis returns, and the report that gathers them on one page."""

from ics.plots.activations import distributions
from ics.plots.attribution import attribution
from ics.plots.curvature import curvature
from ics.plots.drift import drift
from ics.plots.gradient_line import landscape
from ics.plots.gradient_shift import gradient_shift, gradient_shift_by_layer
from ics.plots.ledger.forest import forest
from ics.plots.normalization import normalization
from ics.plots.report.report import write_report
from ics.plots.style import net_colors
from ics.plots.training import training_curves

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
