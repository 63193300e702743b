"""C03: sums of drawn inputs against arithmetic, and made-up studies for which the verdict is known."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from ics.claims import Evidence, weigh
from ics.claims.c03_central_limit import C03, DEPENDENT, FAN_INS, LAWS, WIDTHS, sums

DISTANCES = ("ks", "excess_kurtosis")


def of_laws(rate: float, *, dependent: float = 0.0, seeds: int = 4) -> pd.DataFrame:
    """Distances fall as fan-in^-rate."""
    rows = []
    for seed, law, over, fan_in, name in product(range(seeds), LAWS, ("data", "weights"), FAN_INS, DISTANCES):
        power = dependent if law == DEPENDENT and over == "data" else rate
        value = (1 + 0.01 * seed * (fan_in > 1)) * fan_in**-power
        rows.append({"law": law, "over": over, "fan_in": fan_in, "measure": name, "value": value, "seed": seed})
    return pd.DataFrame(rows)


def of_net(width: int, rates: dict[int, float], seeds: int = 4) -> pd.DataFrame:
    rows = [
        {"layer": f"l{layer}", "layer_index": layer, "fan_in": width, "site": site, "step": step, "measure": name}
        | {"reference_step": step, "seed": seed, "num_units": width, "num_constant": 0}
        | {"value": width ** -rates[step] if 0 < layer < 3 and site == "preactivation" else 7.0}
        for seed, layer, site, step, name in product(
            range(seeds), range(4), ("input", "preactivation"), rates, (*DISTANCES, "ks_of_normal")
        )
    ]
    return pd.DataFrame(rows)


def weighed(laws: float, start: float, end: float, **others: float):
    nets = {f"digits, width {width}": of_net(width, {0: start, 100: (start + end) / 2, 200: end}) for width in WIDTHS}
    return weigh(C03, Evidence.of_frames(studies={"sums": of_laws(laws, **others), **nets}))


@pytest.mark.parametrize(
    ("laws", "start", "end", "outcome"),
    [
        (0.5, 0.5, 0.5, "supported"),
        (0.0, 0.0, 0.0, "contradicted"),
        (0.5, 0.5, 0.0, "mixed"),
        (0.5, 0.0, 0.0, "mixed"),
        (0.05, 0.05, 0.05, "contradicted"),
    ],
)
def test_known_rates(laws: float, start: float, end: float, outcome: str) -> None:
    effects, verdict = weighed(laws, start, end)
    assert verdict.outcome == outcome
    found = {(effect.measure, effect.setting): effect.numbers[0] for effect in effects}
    assert found["ks", "uniform"] == pytest.approx(1024**-laws)
    assert found["ks_at_start", "digits"] == pytest.approx(64**-start)
    assert found["excess_kurtosis_trained", "digits"] == pytest.approx(64**-end)


def test_what_depends_has_no_vote() -> None:
    effects, verdict = weighed(0.5, 0.5, 0.5, dependent=0.0)
    found = {effect.measure: effect.numbers[0] for effect in effects}
    assert found["ks_dependent_over_data"] == pytest.approx(1.0)
    assert found["ks_dependent_over_weights"] == pytest.approx(1 / 32)
    assert verdict.outcome == "supported"
    voting = {vote.criterion.measure for vote in verdict.votes}
    assert not voting & {"ks_dependent_over_data", "ks_dependent_over_weights"}


def test_one_seed_decides_nothing() -> None:
    laws = of_laws(0.5, seeds=1)
    nets = {f"digits, width {width}": of_net(width, {0: 0.5, 9: 0.5}, 1) for width in WIDTHS}
    assert weigh(C03, Evidence.of_frames(studies={"sums": laws, **nets}))[1].outcome == "inconclusive"


def test_sums_are_as_far_from_normal_as_arithmetic_says() -> None:
    rows = sums(seed=0, fan_ins=(1, 64), num_samples=20_000, num_units=16)
    found = rows.set_index(["law", "over", "fan_in", "measure"])["value"]
    # One uniform input: excess kurtosis -6/5, and sup |F - Phi| of a standardised uniform distribution by hand.
    grid = np.linspace(-math.sqrt(3), math.sqrt(3), 100_001)
    by_hand = np.abs((grid / math.sqrt(3) + 1) / 2 - [0.5 * math.erfc(-x / math.sqrt(2)) for x in grid]).max()
    assert found["uniform", "data", 1, "excess_kurtosis"] == pytest.approx(1.2, abs=0.02)
    assert found["uniform", "data", 1, "ks"] == pytest.approx(by_hand, abs=0.01)
    # ReLU of normal: E x^k = 0.399, 0.5, 0.798, 1.5. One in ten, exponential: E x^k = 0.1, 0.2, 0.6, 2.4.
    clipped = excess_kurtosis(math.sqrt(0.5 / math.pi), 0.5, math.sqrt(2 / math.pi), 1.5)
    assert found["ReLU of normal", "data", 1, "excess_kurtosis"] == pytest.approx(clipped, rel=0.15)
    # Independent terms divide the excess by (sum w^2)^2 / sum w^4, for uniform weights 64 (1/3)^2 / (1/5) = 64 / 1.8.
    sparse = excess_kurtosis(0.1, 0.2, 0.6, 2.4)
    assert found["one in ten", "data", 64, "excess_kurtosis"] == pytest.approx(sparse * 1.8 / 64, rel=0.15)


def excess_kurtosis(first: float, second: float, third: float, fourth: float) -> float:
    """From raw moments."""
    central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    return central / (second - first**2) ** 2 - 3


def test_a_common_scale_is_not_summed_away_over_data_but_over_weights() -> None:
    rows = sums(seed=0, fan_ins=(4, 256), num_samples=8192, num_units=16)
    found = rows[rows["law"] == DEPENDENT].set_index(["over", "fan_in", "measure"])["value"]
    # Gaussian times a lognormal scale s of sigma 1: P(|s z| < small) is far above a Gaussian's, whatever the fan-in.
    assert found["data", 256, "ks"] > 0.1
    assert found["weights", 256, "ks"] < 0.03


def test_nets_differ_in_width_alone() -> None:
    from ics.claims import BUDGETS

    for budget in BUDGETS.values():
        studies = C03.studies(budget)
        assert [study.settings["hidden"] for study in studies[1:]] == [[width] * 4 for width in WIDTHS]
        assert len({str({k: v for k, v in study.settings.items() if k != "hidden"}) for study in studies[1:]}) == 1
