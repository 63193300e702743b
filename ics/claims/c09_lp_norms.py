"""C09: do l1, l2 and l-infinity normalisation train as well as BatchNorm, with activations that are less Gaussian?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ics.analysis import as_array, normality
from ics.claims.measures.learning import Pair, compared_accuracy, compared_loss, compared_steps, last
from ics.claims.measures.stability import before_activation, without_end
from ics.claims.measures.training import final_loss
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, difference, per_seed, ratio
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, below
from ics.experiments.training.config import RunConfig

LP_NORMS = ("l1", "l2", "linf")
_LINEAR = "linear"
_HISTOGRAM = ("minimum", "maximum", "histogram_bucket", "histogram")
_SITE = "of what activation functions are applied to, median over layers, then over steps"
_SHAPE = {
    "pooled_distance": f"Wasserstein-2 distance of pooled channels to the normal of same mean and variance, {_SITE}",
    "kurtosis": f"|excess kurtosis|, median over channels, {_SITE}",
}
_UNIT = "distance_to_unit_normal"
_UNIT_WORDS = {"measure": _UNIT, "meaning": f"KL(N(mean, variance) || N(0, 1)), mean over channels, {_SITE}"}


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """Five nets of each base, and the deep linear net where there is time to train it."""
    norms = ("none", "batch", *LP_NORMS)
    shared = [base(budget, name, norm=norm) for name in budget.bases for norm in norms]
    # Only the loss of the linear net is looked at: what it sees is Gaussian, and stays so through linear layers.
    linear = [base(budget, _LINEAR, norm=norm, instruments={}) for norm in norms] if _has_linear(budget) else []
    return (*shared, *linear)


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Each lp norm against BatchNorm; the standard net beside them without a vote."""
    bases = found.budget.bases
    pairs = [_pair(norm, name) for name in bases for norm in LP_NORMS]
    linear = [_pair(norm, _LINEAR) for norm in LP_NORMS] if _has_linear(found.budget) else []
    losses, accuracies = final_loss(found), last(found, "test_accuracy")
    distances = distances_from_normal(found)
    return (
        *(compared_loss(losses, pair) for pair in (*pairs, *linear)),
        *compared_steps(found, pairs),
        *(compared_accuracy(accuracies, pair, measure="test_accuracy") for pair in pairs),
        *(
            ratio(distances[name], pair.net, pair.other, measure=name, meaning=told, setting=pair.setting)
            for name, told in _SHAPE.items()
            for pair in pairs
        ),
        # A difference: BatchNorm's own distance is 0 but for gamma and beta, and a ratio to it nearly infinite.
        *(
            difference(distances[_UNIT], pair.net, pair.other, unit="nat", setting=pair.setting, **_UNIT_WORDS)
            for pair in pairs
        ),
        *(_standard(losses, name) for name in (*bases, *([_LINEAR] if linear else []))),
    )


def distances_from_normal(found: Evidence) -> dict[str, pd.Series]:
    """Return the three distances from normal distributions by net and seed; infinite for a net that diverged."""
    rows = before_activation(found, columns=_HISTOGRAM)
    shapes = normality(rows).assign(
        distance_to_unit_normal=[
            distance_to_unit_normal(as_array(means), as_array(variances))
            for means, variances in zip(rows["channel_mean"], rows["channel_m2"], strict=True)
        ]
    )
    columns = {
        "pooled_distance": "wasserstein_2",
        "kurtosis": "channel_excess_kurtosis",
        "distance_to_unit_normal": "distance_to_unit_normal",
    }
    return {name: without_end(found, per_seed(shapes, column)) for name, column in columns.items()}


def distance_to_unit_normal(mean: np.ndarray, variance: np.ndarray) -> float:
    """Return the mean over channels of KL(N(m, v) || N(0, 1)) = (v + m^2 - 1 - ln v) / 2; constant channels aside.

    Example:
        >>> distance_to_unit_normal(np.array([0.0, 1.0]), np.array([1.0, 1.0]))
        0.25
    """
    defined = variance > 0
    if not defined.any():
        return float("nan")
    m, v = mean[defined], variance[defined]
    return float(((v + m**2 - 1 - np.log(v)) / 2).mean())


def _pair(norm: str, name: str) -> Pair:
    return Pair(net_name(norm, name), net_name("batch", name), name, f"{norm}, {name}")


def _standard(losses: pd.Series, name: str) -> Effect:
    told = "training loss, mean over the last tenth of the steps"
    nets_compared = net_name("none", name), net_name("batch", name)
    return ratio(losses, *nets_compared, measure="final_loss_standard", meaning=told, setting=name)


def _has_linear(budget: ClaimBudget) -> bool:
    return budget.name != "quick"


_AS_WELL = "a quarter more is the largest difference that still counts as training as well"
_LESS = "a tenth more is the smallest distance that counts"

C09 = Claim(
    id="C09",
    nets=nets,
    evidence=evidence,
    rule=(
        below("final_loss", 1.25, why=_AS_WELL),
        below("steps", 1.25, why=_AS_WELL),
        above("test_accuracy", -0.01, why="one example in a hundred is the largest loss that counts as none"),
        *(above(name, 1.1, why=_LESS) for name in _SHAPE),
        above(_UNIT, 0.05, why="nats that a standard deviation makes which is off by a quarter"),
    ),
    published="VGG: training as good as with BatchNorm; deep linear net, 10 000 steps: final loss 5e2 with BatchNorm "
    "and with l2, 1e3 with l-infinity, 1e2 with l1, 1.7e3 without (Santurkar et al. 2018, sec. 3.3, by eye).",
    remark="Less Gaussian can mean three things. Every norm here shifts and scales a channel, which changes no "
    "channel's shape (kurtosis): it differs only because the nets learn differently. They differ in the variance that "
    "a channel gets (distance to N(0, 1)), and so in the mixture of all channels (pooled distance), gamma and beta "
    "included. Where the standard net learns as well too (final_loss_standard near 1), none of the norms was needed. "
    "The deep linear net enters by its loss alone, and not at the budget quick.",
)
