"""Frame to frame: everything that is derived from stored tables, without torch and without figures."""

from ics.analysis.activations import densities, moments, normality, quantiles, ridges
from ics.analysis.attribution import attribution_shares
from ics.analysis.comparison import compare
from ics.analysis.curvature import curvature_over_steps
from ics.analysis.drift import drift_between, drift_over_steps
from ics.analysis.gradient_line import landscape_bands, landscape_over_steps
from ics.analysis.gradient_shift import shift_against_floor, shift_by_layer, shift_over_steps
from ics.analysis.headline import headline
from ics.analysis.normalization import smoothing_budget, smoothing_over_steps
from ics.analysis.run_measures import MEASURES, run_measures
from ics.analysis.training import costs, training_curves

__all__ = [
    "MEASURES",
    "attribution_shares",
    "compare",
    "costs",
    "curvature_over_steps",
    "densities",
    "drift_between",
    "drift_over_steps",
    "headline",
    "landscape_bands",
    "landscape_over_steps",
    "moments",
    "normality",
    "quantiles",
    "ridges",
    "run_measures",
    "shift_against_floor",
    "shift_by_layer",
    "shift_over_steps",
    "smoothing_budget",
    "smoothing_over_steps",
    "training_curves",
]
