"""C03: does Wu+b approach a Gaussian as the fan-in grows? For drawn u, and in nets before and after training.

The distribution is that of one unit over the data at fixed W: this is what a layer sees, and what BatchNorm
standardises. Over draws of W at one u, which is another question, Wu+b is close to Gaussian under weaker conditions.
Both are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ics.claims.measures.unit_shapes import describe, typical
from ics.claims.method.budgets import ClaimBudget, base
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import below
from ics.claims.method.study import Study
from ics.claims.studies.shape import inner, shape_study

Array = NDArray[np.float64]
Law = Callable[[np.random.Generator, tuple[int, int]], Array]

FAN_INS = (1, 4, 16, 64, 256, 1024)
WIDTHS = (8, 32, 128, 512)
DEPENDENT = "one scale for all"
_DISTANCES = {"ks": "Kolmogorov-Smirnov distance to normal", "excess_kurtosis": "|excess kurtosis|"}
_SAMPLES = {"quick": 4096, "cpu": 16384, "paper": 16384}
_UNITS = 32


def relu_of_normal(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """What a ReLU makes of standard normal values."""
    return np.maximum(rng.standard_normal(shape), 0.0)


def one_in_ten(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """0 for nine in ten, exponential for the others."""
    return np.where(rng.random(shape) < 0.1, rng.exponential(size=shape), 0.0)


def uniform(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Uniform between -1 and 1."""
    return rng.uniform(-1.0, 1.0, shape)


def student_t(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Student's t with 3 degrees of freedom: a variance, but no third or fourth moment."""
    return rng.standard_t(3, shape)


def one_scale(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """ReLU of normal, times a lognormal scale that all entries of a u share, so that they are not independent."""
    return relu_of_normal(rng, shape) * np.exp(rng.standard_normal((shape[0], 1)))


LAWS: Mapping[str, Law] = {
    "ReLU of normal": relu_of_normal,
    "one in ten": one_in_ten,
    "uniform": uniform,
    "Student t, 3": student_t,
    DEPENDENT: one_scale,
}
"""Laws of the entries of u, independent but for the last."""


def sums(*, seed: int, fan_ins: Sequence[int], num_samples: int, num_units: int) -> pd.DataFrame:
    """Return how far from normal W u is, for u drawn from each law and W_ij uniform in [-1, 1]: scale is no shape.

    In float64. `over="data"`: `num_samples` draws of u for each of `num_units` fixed rows of W. `over="weights"`:
    `num_samples` rows of W for each of `num_units` fixed u.

    Returns:
        A row per law, `over`, `fan_in` and `measure` (ks, excess_kurtosis, ... of `describe`): `value`, the median
        over the units (the u's).

    Cost: `num_samples` x `num_units` x the sum of fan-ins multiplications, per law and twice.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for law, draw in LAWS.items():
        for fan_in in fan_ins:
            over_data = uniform(rng, (num_units, fan_in)) @ draw(rng, (num_samples, fan_in)).T
            over_weights = draw(rng, (num_units, fan_in)) @ uniform(rng, (num_samples, fan_in)).T
            for over, values in (("data", over_data), ("weights", over_weights)):
                rows += [
                    {"law": law, "over": over, "fan_in": fan_in, "measure": name, "value": typical(numbers)}
                    for name, numbers in describe(values).items()
                ]
    return pd.DataFrame(rows)


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """The sums, and nets of several widths; the fan-in of an inner layer is the width."""
    settings = {"fan_ins": FAN_INS, "num_samples": _SAMPLES[budget.name], "num_units": _UNITS}
    drawn = Study(name="sums", function=f"{__name__}:sums", settings=settings)
    nets = (
        shape_study(_width(width), base(budget, hidden=(width,) * 4), budget, num_measurements=2) for width in WIDTHS
    )
    return (drawn, *nets)


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Ratios largest / smallest fan-in of the distance to normal."""
    return (*_of_laws(found), *_of_nets(found))


def _of_laws(found: Evidence) -> list[Effect]:
    rows = found.study("sums")
    rows = rows.assign(net=rows["fan_in"].map(_fan_in))
    ends = _fan_in(rows["fan_in"].max()), _fan_in(rows["fan_in"].min())
    effects = []
    for measure, meaning in _DISTANCES.items():
        for over, law in [("data", law) for law in LAWS] + [("weights", DEPENDENT)]:
            chosen = rows[(rows["law"] == law) & (rows["over"] == over) & (rows["measure"] == measure)]
            told = f"{meaning} of a unit's Wu over {over}" + (" at one u" if over == "weights" else " at one W")
            # What draws of u that are not independent do is known beforehand and decides nothing: it explains nets.
            name = f"{measure}_dependent_over_{over}" if law == DEPENDENT else measure
            numbers = per_seed(chosen, "value", by=())
            effects.append(ratio(numbers, *ends, measure=name, meaning=told, setting=law))
    return effects


def _of_nets(found: Evidence) -> list[Effect]:
    rows = pd.concat([inner(found.study(_width(width))).assign(net=_fan_in(width)) for width in WIDTHS])
    rows = rows[rows["site"] == "preactivation"]
    ends = _fan_in(max(WIDTHS)), _fan_in(min(WIDTHS))
    when_measured = {"at_start": rows["step"].min(), "trained": rows["step"].max()}
    effects = []
    for when, step in when_measured.items():
        at = rows[(rows["step"] == step) & (rows["reference_step"] == step)]
        for measure, meaning in _DISTANCES.items():
            numbers = per_seed(at, "value", by=(), where=at["measure"] == measure)
            told = f"{meaning} of a unit's Wu+b over the data, median over units, then layers, after {step} steps"
            effects.append(ratio(numbers, *ends, measure=f"{measure}_{when}", meaning=told, setting="digits"))
        own = per_seed(at, "value", by=(), where=at["measure"] == "ks")
        effects += [
            value(own, net, measure=f"ks_itself_{when}", meaning=f"ks after {step} steps", unit="1", setting=net)
            for net in map(_fan_in, WIDTHS)
        ]
    normal = per_seed(rows, "value", by=(), where=rows["measure"] == "ks_of_normal")
    told = "ks of as many normal draws as there are examples"
    return [*effects, value(normal, ends[0], measure="ks_of_normal", meaning=told, unit="1", setting="digits")]


def _width(width: int) -> str:
    return f"digits, width {width}"


def _fan_in(fan_in: int) -> str:
    return f"fan-in {fan_in}"


_DRAWN = "the limit theorem says about 1/32 for 1024 times the fan-in; half is the least that approaching can mean"
_NETS = "independent inputs would give about 1/8 for 64 times the fan-in; half is the least that approaching can mean"

C03 = Claim(
    id="C03",
    studies=studies,
    evidence=evidence,
    rule=(
        *(below(measure, 0.5, why=_DRAWN) for measure in _DISTANCES),
        *(below(f"{measure}_{when}", 0.5, why=_NETS) for when in ("at_start", "trained") for measure in _DISTANCES),
    ),
    published="Argued from the central limit theorem, which holds for sums of independent terms (Hyvärinen & Oja "
    "2000; Ioffe & Szegedy 2015, sec. 3.2).",
    remark="The distribution of one unit over the data. The entries of a net's u depend on each other because they are "
    "functions of the same image, at initialisation too: if they share as little as a common scale, no fan-in makes "
    "their sum Gaussian over the data, although it is Gaussian over draws of W. Digits have 64 pixels that depend on "
    "each other and 10 classes; other data may be closer. Laws without a variance are left out: no limit is claimed. "
    "A fall that ends above ks_of_normal is no approach to the end: ks_itself shows where it stops.",
)
