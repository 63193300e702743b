"""C05: BatchNorm of Wu + b, or of u? Which net learns better, and what the next layer sees in each."""

from __future__ import annotations

import pandas as pd

from ics.claims.measures.learning import Pair, compared
from ics.claims.measures.stability import movement, seen, skewness_change, without_end
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, below
from ics.experiments.training.config import RunConfig

BEFORE, AFTER = "batch", "batch-after-activation"
_SINCE = "of what the next layer sees, since the first step, over channels, median over layers, then over steps"
_MOVED = {
    "mean_shift": "mean |change of the mean| in standard deviations",
    "log_variance_ratio": "mean |change of the log variance|",
    "skewness_change": "median |change of the skewness|",
}


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """BatchNorm in either place, and none for comparison."""
    return tuple(base(budget, name, norm=norm) for name in budget.bases for norm in ("none", BEFORE, AFTER))


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Ratios and differences BN(Wu) against BN(u); the stability of the next layer's input is shown without a vote."""
    bases = found.budget.bases
    pairs = [Pair(net_name(BEFORE, name), net_name(AFTER, name), name, name) for name in bases]
    against_none = [
        Pair(net_name(norm, name), net_name("none", name), name, f"{norm} against none, {name}")
        for name in bases
        for norm in (BEFORE, AFTER)
    ]
    moved = _movements(found)
    stability = [
        ratio(moved[name], pair.net, pair.other, measure=name, meaning=f"{told} {_SINCE}", setting=pair.setting)
        for name, told in _MOVED.items()
        for pair in (*pairs, *against_none)
    ]
    return (*compared(found, pairs), *stability)


def _movements(found: Evidence) -> dict[str, pd.Series]:
    """What moved in the next layer's input since the first step, by net and seed."""
    inputs = seen(found)
    skewness = per_seed(skewness_change(inputs, reference="first"), "skewness_change")
    moved = {name: movement(found, inputs, name, reference="first") for name in ("mean_shift", "log_variance_ratio")}
    return moved | {"skewness_change": without_end(found, skewness)}


C05 = Claim(
    id="C05",
    nets=nets,
    evidence=evidence,
    rule=(
        below("final_loss", 0.9, why="a tenth less is the smallest improvement that counts"),
        below("steps", 0.9, why="a tenth fewer is the smallest improvement that counts"),
        above("test_accuracy", 0.01, why="one example in a hundred is the smallest improvement that counts"),
    ),
    published="Argued, not measured, by Ioffe & Szegedy 2015: Wu + b is nearer to a Gaussian than u, so that fixing "
    "its mean and variance is likely to give a more stable distribution. Measured by Mishkin et al. 2016 on ImageNet "
    "at 128 x 128 with CaffeNet, accuracy: BN(Wu) 47.8 %, BN(u) 49.3 %; without gamma and beta 47.4 and 49.9 %.",
    remark="Both nets have as many BatchNorms with as many parameters. With BN(u) mean and variance of what the next "
    "layer sees are fixed by construction, up to gamma and beta; what its argument is about is the shape, shown as the "
    "change of skewness. The places are not only before and behind a function: with BN(u) the output layer sees "
    "normalised values and the first activation function does not, with BN(Wu) it is the other way round.",
)
