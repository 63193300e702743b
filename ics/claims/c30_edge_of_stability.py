"""C30: is effective beta held at 2/lr, whatever the net?"""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np
import pandas as pd

from ics.analysis import MAXIMA, band_measures, landscape_bands
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import within
from ics.experiments.recipes import recipe
from ics.experiments.training.config import RunConfig

_NORMS = ("none", "batch")
_RATES = (2e-5, 4e-5)
_ACTIVATIONS = {"tanh": _RATES, "relu": _RATES[:1]}
_NUM_MEASUREMENTS = 20
_EDGE = 0.95
_LINE = ("step", "layer", "direction", "eta", "distance", "loss", "gradient_change_l2", "learning_rate")
_BETA = "largest ||grad L(w_eta) - g|| / distance along the gradient"
_LATE = "median over the second half of training"
_AT_EDGE = f"median over steps at which the largest eigenvalue is {_EDGE:g} or more"
_EXPONENT = f"exponent of lr in beta at the edge, between lr {_RATES[0]:g} and {_RATES[1]:g}"


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """Nets trained on all examples at every step, by squared loss, and the nets that claims share."""
    full = [
        _full_batch(budget, norm, activation, rate)
        for activation, rates in _ACTIVATIONS.items()
        for rate in rates
        for norm in _NORMS
    ]
    # 200 steps of the deep linear net are over before anything could level off.
    shared = (*budget.bases, "linear") if budget.linear_steps >= 1000 else budget.bases
    return (*full, *(base(budget, name, norm=norm) for name in shared for norm in _NORMS))


def _full_batch(budget: ClaimBudget, norm: str, activation: str, rate: float) -> RunConfig:
    steps = 2 * budget.steps
    every = max(steps // _NUM_MEASUREMENTS, 1)
    return recipe(
        "deep-linear",
        norm=norm,
        net=_name(norm, activation, rate),
        model="mlp",
        hidden=(32,) * 3,
        activation=activation,
        learning_rate=rate,
        steps=steps,
        line_range=(0.5, 4.0),
        line_points=8,
        instruments={"gradient_line": f"every({every})", "curvature": f"every({every})"},
    )


def _name(norm: str, activation: str, rate: float) -> str:
    return f"{net_name(norm)}, {activation}, lr {rate:g}"


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Beta as a multiple of 2/lr late in training, and wherever the net is at the edge; and how it scales with lr."""
    line = found.table("gradient_line", columns=_LINE, where={"direction": "gradient"})
    # The deep linear net is probed from 1/100 to 30 learning rates: a maximum over that is no maximum over the rest.
    line = line[(line["eta"] == 0) | (line["eta"] / line["learning_rate"]).between(0.49, 4.01)]
    rows = with_sharpness(line, found.table("curvature", columns=("step", "hessian_max_eigenvalue", "batch_sharpness")))
    late = rows[rows["step"] >= rows.groupby("run")["step"].transform("max") / 2]
    # By the Hessian, not by beta itself: a net is not to be chosen by the number that is then judged.
    is_at_edge = rows["sharpness_over_edge"] >= _EDGE
    at_edge = rows.assign(beta=rows["beta"].where(is_at_edge), beta_over_edge=rows["beta_over_edge"].where(is_at_edge))
    effects = [
        value(numbers, net, measure=measure, meaning=meaning, unit="2/lr", setting=_setting(found.config(net)))
        for measure, numbers, meaning in (
            ("beta_late", per_seed(late, "beta_over_edge"), f"{_BETA}, {_LATE}"),
            ("beta_at_edge", _known(per_seed(at_edge, "beta_over_edge")), f"{_BETA}, {_AT_EDGE}"),
            ("sharpness_late", per_seed(late, "sharpness_over_edge"), f"largest eigenvalue of the Hessian, {_LATE}"),
            ("batch_sharpness_late", per_seed(late, "batch_sharpness_over_edge"), f"g.Hg / ||g||^2, {_LATE}"),
        )
        for net in found.nets
        if net in numbers.index.get_level_values("net")
    ]
    exponents = exponent(per_seed(at_edge, "beta"))
    effects += [
        value(exponents, net, measure="exponent", meaning=_EXPONENT, unit="1", setting=f"{net}, tanh")
        for net in map(net_name, _NORMS)
    ]
    return tuple(effects)


def _setting(config: RunConfig) -> str:
    return config.net if config.batch_size is None else f"{config.net}, batches of {config.batch_size}"


def _known(numbers: pd.Series) -> pd.Series:
    """Leave out nets of which no seed was ever at the edge: they say nothing about it, however many seeds there are."""
    return numbers[numbers.notna().groupby(level="net").transform("any")]


def with_sharpness(line: pd.DataFrame, curvature: pd.DataFrame) -> pd.DataFrame:
    """Return `beta` of each run and step, and beta, sharpness and batch sharpness as multiples of 2/lr.

    A step without curvature has null sharpness. A maximum over a line on which the loss overflowed is larger than any
    number: inf.
    """
    bands = band_measures(landscape_bands(line).fillna(dict.fromkeys(MAXIMA, np.inf)))
    rows = bands.merge(curvature, on=["run", "net", "seed", "step"], how="left")
    return rows.assign(
        sharpness_over_edge=rows["hessian_max_eigenvalue"] / rows["two_over_lr"],
        batch_sharpness_over_edge=rows["batch_sharpness"] / rows["two_over_lr"],
    )


def exponent(beta: pd.Series) -> pd.Series:
    """Return log(beta_2 / beta_1) / log(lr_2 / lr_1) of the tanh nets at the two learning rates, by norm and seed.

    -1 where beta is proportional to 1/lr. Undefined where one of the two was never at the edge.
    """
    found: dict[tuple[str, Hashable], float] = {}
    for norm in _NORMS:
        low, high = (_of(beta, _name(norm, "tanh", rate)) for rate in _RATES)
        for seed, grown in (high / low).items():
            found[net_name(norm), seed] = _log(grown) / math.log(_RATES[1] / _RATES[0])
    return pd.Series(found, dtype=float)


def _log(number: float) -> float:
    return math.log(number) if 0 < number < math.inf else math.nan


def _of(numbers: pd.Series, net: str) -> pd.Series:
    return numbers[numbers.index.get_level_values("net") == net].droplevel("net")


_WHY = "a tenth is the most by which a number that is said to be 2/lr may differ from it"

C30 = Claim(
    id="C30",
    nets=nets,
    evidence=evidence,
    rule=(
        within("beta_late", 0.9, 1.1, why=_WHY),
        within("beta_at_edge", 0.9, 1.1, why=_WHY),
        within("exponent", -1.1, -0.9, why="a tenth from proportional to 1/lr"),
    ),
    published="Full-batch gradient descent holds the largest eigenvalue at or just above 2/lr (Cohen et al. 2021), and "
    "effective beta of Santurkar et al. 2018, Fig. 4 levels off there. With minibatches the largest eigenvalue stays "
    "below, and g.Hg / ||g||^2 of the batch is what is held at 2/lr (Andreyev & Beneventano 2024).",
    remark="Three tanh or ReLU layers of 32 units on all of the Gaussian data, squared loss, and the shared nets on "
    "minibatches, cross-entropy. beta_late asks whether a net ends at 2/lr; beta_at_edge looks only at steps at which "
    "the Hessian, measured apart, says that the net is at the edge, and leaves out nets that never are. The two "
    "learning rates were chosen so that nets with tanh units come to the edge within the steps of the smallest budget. "
    "With cross-entropy sharpness falls again once examples are fitted (Cohen et al. 2021).",
)
