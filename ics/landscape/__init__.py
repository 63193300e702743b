"""Loss and gradient at other parameter values: internal covariate shift, the loss along a line."""

from ics.landscape.agreement import Agreement
from ics.landscape.measures.attribution import attribution
from ics.landscape.measures.curvature import curvature
from ics.landscape.measures.gradient_line import check_directions, checked_etas, default_etas, gradient_line
from ics.landscape.measures.gradient_shift import gradient_shift, passes_of
from ics.landscape.measures.hessian import HessianAt
from ics.landscape.measures.linearised import compare_linearised, linearised_shift
from ics.landscape.measures.slices import loss_slice
from ics.landscape.objective import Evaluation, Objective
from ics.landscape.random_state import RandomState
from ics.landscape.substitution import substituted
from ics.landscape.transition import Transition, make_transition

__all__ = [
    "Agreement",
    "Evaluation",
    "HessianAt",
    "Objective",
    "RandomState",
    "Transition",
    "attribution",
    "check_directions",
    "checked_etas",
    "compare_linearised",
    "curvature",
    "default_etas",
    "gradient_line",
    "gradient_shift",
    "linearised_shift",
    "loss_slice",
    "make_transition",
    "passes_of",
    "substituted",
]
