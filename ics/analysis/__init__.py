"""Frame to frame: everything that is derived from stored tables, without torch and without figures."""

from ics.analysis.bands import landscape_bands, landscape_over_steps
from ics.analysis.comparison import compare
from ics.analysis.density import densities, ridges
from ics.analysis.drift import drift_between
from ics.analysis.measures import MEASURES, run_measures
from ics.analysis.same_batch import drift_over_steps
from ics.analysis.sentences import headline
from ics.analysis.shape import moments, normality, quantiles
from ics.analysis.sharpness import curvature_over_steps
from ics.analysis.shift import shift_against_floor, shift_by_layer, shift_over_steps
from ics.analysis.smoothing import smoothing_budget, smoothing_over_steps
from ics.analysis.sources import attribution_shares
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
