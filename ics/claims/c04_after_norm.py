"""C04: do pre-activations after BatchNorm keep their distribution while the net trains, in mean, variance and shape?"""

from __future__ import annotations

import pandas as pd

from ics.analysis import before_last_layer
from ics.claims.c01_shape_drift import SHAPE_CHANGES, changes
from ics.claims.measures.stability import without_end
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import below
from ics.claims.method.study import Study
from ics.claims.studies.shape import inner, shape_study
from ics.experiments.training.config import RunConfig

BEFORE_UPDATE = "before_update"
_PLACE = ("step", "layer", "layer_index", "call", "site", "reference")
DRIFT = (*_PLACE, "mean_shift", "log_variance_ratio", "wasserstein_1")
_SINCE_FIRST = {
    "mean_shift": "|difference of means| in standard deviations at the first look",
    "log_variance_ratio": "|log of the ratio of variances|",
    "wasserstein_1": "Wasserstein-1 distance in standard deviations at the first look",
}
_HOW = "of the same batch now and before training; mean over units, median over layers, then over steps"
_WHAT = {"none": "preactivation", "batch": "scaled"}
"""What goes into the activation function: W u + b, or gamma x-hat + beta."""


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """The standard and the BatchNorm net of each base of the budget."""
    return tuple(base(budget, name, norm=norm) for name in budget.bases for norm in _WHAT)


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """The shapes of the same nets."""
    return tuple(shape_study(config.net, config, budget) for config in nets(budget))


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Ratios BatchNorm / standard of what goes into the activation function, and x-hat's mean and variance."""
    rows = found.table("drift", columns=DRIFT, where={"site": [*_WHAT.values(), "normalized"]})
    rows = before_last_layer(rows)
    effects: list[Effect] = []
    for name in found.budget.bases:
        pair = net_name("batch", name), net_name("none", name)
        shapes = pd.concat([_shapes(found, norm, name) for norm in _WHAT])
        for measure, meaning in SHAPE_CHANGES.items():
            told = f"{meaning}; median over units, then over layers but the last, then over all pairs of looks"
            effects.append(ratio(changes(shapes, measure), *pair, measure=measure, meaning=told, setting=name))
        own = pd.concat([_moved(rows, net_name(norm, name), site) for norm, site in _WHAT.items()])
        since_first, by_update = own["reference"] != BEFORE_UPDATE, own["reference"] == BEFORE_UPDATE
        for measure, meaning in _SINCE_FIRST.items():
            numbers = without_end(found, per_seed(own, measure, where=since_first))
            effects.append(ratio(numbers, *pair, measure=measure, meaning=f"{meaning}, {_HOW}", setting=name))
        numbers = without_end(found, per_seed(own, "wasserstein_1", where=by_update))
        told = "Wasserstein-1 distance of the same batch before and after one update, in standard deviations before it"
        effects.append(ratio(numbers, *pair, measure="per_update", meaning=told, setting=name))
        effects += _by_construction(rows, pair[0], name)
    return tuple(effects)


def _shapes(found: Evidence, norm: str, name: str) -> pd.DataFrame:
    net = net_name(norm, name)
    rows = inner(found.study(net), first=True)
    return rows[rows["site"] == _WHAT[norm]].assign(net=net)


def _moved(rows: pd.DataFrame, net: str, site: str) -> pd.DataFrame:
    return rows[(rows["net"] == net) & (rows["site"] == site)]


def _by_construction(rows: pd.DataFrame, net: str, setting: str) -> list[Effect]:
    own = _moved(rows, net, "normalized")
    own = own[own["reference"] != BEFORE_UPDATE]
    told = {name: _SINCE_FIRST[name] for name in ("mean_shift", "log_variance_ratio")}
    return [
        value(per_seed(own, name), net, measure=f"{name}_of_x_hat", meaning=meaning, unit="1", setting=setting)
        for name, meaning in told.items()
    ]


_WHY = "a tenth less is the smallest difference that counts"

C04 = Claim(
    id="C04",
    nets=nets,
    studies=studies,
    evidence=evidence,
    rule=tuple(below(measure, 0.9, why=_WHY) for measure in (*SHAPE_CHANGES, *_SINCE_FIRST, "per_update")),
    published='Argued without a measurement: normalising Wu+b "is likely to produce activations with a stable '
    'distribution" (Ioffe & Szegedy 2015, sec. 3.2; its Fig. 1 shows three percentiles of one unit on MNIST).',
    remark="y = gamma x-hat + beta of the BatchNorm net against Wu+b of the standard net, every normalised layer, at "
    "equal learning rate and equal numbers of steps: a net that learns faster has moved further for that alone. "
    "Distances are in standard deviations of the first look: a net whose pre-activations grow moves far by them. Mean "
    "and variance of x-hat are fixed by construction; those of y move as gamma and beta do (C06).",
)
