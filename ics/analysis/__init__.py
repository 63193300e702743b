"""Frame to frame: everything that is derived from stored tables, without torch and without figures."""

from ics.analysis.activations import as_array, densities, entering, moments, normality, quantiles, ridges
from ics.analysis.attribution import attribution_shares
from ics.analysis.comparison import compare
from ics.analysis.curvature import curvature_over_steps
from ics.analysis.drift import drift_between, drift_over_steps
from ics.analysis.frames import IDENTITY, after_first_layer, before_last_layer
from ics.analysis.gradient_line import MAXIMA, band_measures, landscape_bands, landscape_over_steps
from ics.analysis.gradient_shift import shift_against_floor, shift_by_layer, shift_over_steps
from ics.analysis.headline import headline
from ics.analysis.normalization import smoothing_budget, smoothing_over_steps
from ics.analysis.run_measures import MEASURES, run_measures
from ics.analysis.training import costs, last_tenth, training_curves

__all__ = [
    "IDENTITY",
    "MAXIMA",
    "MEASURES",
    "after_first_layer",
    "as_array",
    "attribution_shares",
    "band_measures",
    "before_last_layer",
    "compare",
    "costs",
    "curvature_over_steps",
    "densities",
    "drift_between",
    "drift_over_steps",
    "entering",
    "headline",
    "landscape_bands",
    "landscape_over_steps",
    "last_tenth",
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
