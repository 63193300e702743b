"""C02: is Wu+b more Gaussian, more symmetric and less sparse than u?"""

from __future__ import annotations

import pandas as pd

from ics.claims.c01_shape_drift import changes, studies
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, below
from ics.claims.studies.shape import WU, U, plain_nets, u_and_preactivation

_FROM_NORMAL = {
    "ks": "Kolmogorov-Smirnov distance to the normal distribution of the same mean and variance",
    "excess_kurtosis": "|excess kurtosis|",
    "skewness": "|skewness|",
}
_DENSITY = "density (E|x|)^2 / E x^2, small where few values are far from 0"
_PER_UNIT = "per unit, median over units, then over layers between the first and the last, then over looks"
_POOLED = "of all units of a layer together, median over layers between the first and the last, then over looks"
_KINDS = {"": _PER_UNIT, "pooled_": _POOLED}


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Ratios Wu+b / u, unit by unit and pooled, and the numbers themselves."""
    effects: list[Effect] = []
    for name in plain_nets(found.budget):
        rows = u_and_preactivation(found, name)
        for prefix, how in _KINDS.items():
            for measure, meaning in {**_FROM_NORMAL, "density": _DENSITY}.items():
                numbers = changes(rows, prefix + measure)
                told = f"{meaning}, {how}"
                effects.append(ratio(numbers, WU, U, measure=prefix + measure, meaning=told, setting=name))
        effects += _themselves(rows, name)
    return tuple(effects)


def _themselves(rows: pd.DataFrame, name: str) -> list[Effect]:
    """Effects without a vote: the distance itself, that of normal draws, and exact zeros."""
    distances, normal = changes(rows, "ks"), changes(rows, "ks_of_normal")
    zeros = changes(rows, "pooled_zero_fraction")
    of_draws = "ks of as many normal draws"
    sites = [
        value(numbers, net, measure=measure, meaning=meaning, unit="1", setting=f"{net}, {name}")
        for net in (U, WU)
        for measure, meaning, numbers in (("ks_itself", "ks per unit", distances), ("zeros", "share of zeros", zeros))
    ]
    return [*sites, value(normal, WU, measure="ks_of_normal", meaning=of_draws, unit="1", setting=name)]


_LESS = "a tenth less is the smallest difference that counts"
_MORE = "a tenth more is the smallest difference that counts"

C02 = Claim(
    id="C02",
    studies=studies,
    evidence=evidence,
    rule=tuple(
        criterion
        for prefix in _KINDS
        for criterion in (
            *(below(prefix + measure, 0.9, why=_LESS) for measure in _FROM_NORMAL),
            above(prefix + "density", 1.1, why=_MORE),
        )
    ),
    published='Argued without a measurement: Wu+b "is more likely to have a symmetric, non-sparse distribution, that '
    "is 'more Gaussian'\" (Ioffe & Szegedy 2015, sec. 3.2, with Hyvärinen & Oja 2000).",
    remark="Per unit is what BatchNorm standardises; pooled is what a histogram of a layer shows: a mixture over units "
    "of different means. With ReLU half of u is 0 by construction, which alone makes it skewed and sparse; tanh has "
    "no such reason. Layers of 48 units: C03 asks for the fan-in.",
)
