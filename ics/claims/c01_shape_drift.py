"""C01: does the shape of Wu+b's distribution change less over training than the shape of u's?"""

from __future__ import annotations

import pandas as pd

from ics.claims.method.budgets import ClaimBudget
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import below
from ics.claims.method.study import Study
from ics.claims.studies.shape import WU, U, plain_nets, shape_study, u_and_preactivation

SHAPE_CHANGES = {
    "shape_change": "Wasserstein-1 distance of a unit's standardised distributions at two looks",
    "skewness_change": "|difference| of a unit's skewness at two looks",
    "excess_kurtosis_change": "|difference| of a unit's excess kurtosis at two looks",
}
_TOLD = "; median over units, then over layers between the first and the last, then over all pairs of looks"
_PAIR = ("step", "reference_step")


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """The shapes of the standard nets."""
    return tuple(shape_study(name, config, budget) for name, config in plain_nets(budget).items())


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Ratios Wu+b / u of the output and the input of a layer; the sizes of both, and the share of constant units."""
    effects: list[Effect] = []
    for name in plain_nets(found.budget):
        rows = u_and_preactivation(found, name)
        for measure, meaning in SHAPE_CHANGES.items():
            effects.append(ratio(changes(rows, measure), WU, U, measure=measure, meaning=meaning + _TOLD, setting=name))
        effects += _sizes(rows, name)
    return tuple(effects)


def changes(rows: pd.DataFrame, measure: str) -> pd.Series:
    """Return a measure of `unit_shapes` per net and seed: median over layers, then over steps."""
    return per_seed(rows, "value", by=_PAIR, where=rows["measure"] == measure)


def _sizes(rows: pd.DataFrame, setting: str) -> list[Effect]:
    """Effects without a vote: the change itself, the difference between halves of the probe, units without a shape."""
    sizes, floors = changes(rows, "shape_change"), changes(rows, "shape_floor")
    shares = rows.assign(share=rows["num_constant"] / rows["num_units"])
    constant = per_seed(shares, "share", by=(), reduce="mean", where=shares["measure"] == "ks")
    told = "Wasserstein-1 distance of a unit's standardised distributions"
    never = "share of units that never vary over the probe"
    sites = [
        value(numbers, net, measure=name, meaning=f"{told}, {on}", unit="std", setting=f"{net}, {setting}")
        for net in (U, WU)
        for name, numbers, on in (("size", sizes, "at two looks"), ("floor", floors, "on two halves of the probe"))
    ]
    return [*sites, value(constant, U, measure="constant", meaning=never, unit="1", setting=f"{U}, {setting}")]


_WHY = "a tenth less is the smallest difference that counts"

C01 = Claim(
    id="C01",
    studies=studies,
    evidence=evidence,
    rule=tuple(below(measure, 0.9, why=_WHY) for measure in SHAPE_CHANGES),
    published="Argued without a measurement: u is the output of another nonlinearity, so the shape of its distribution "
    "is likely to change during training, while Wu+b is more likely to be symmetric and not sparse (Ioffe & Szegedy "
    "2015, sec. 3.2).",
    remark="The same examples at every look, without normalisation, 4 hidden layers of 48 units, SGD. Skewness and "
    "kurtosis are larger where tails are long, and so are their changes; the distance weighs all parts of the "
    "distribution alike. u is what the layer before made, so the two sites are not independent.",
)
