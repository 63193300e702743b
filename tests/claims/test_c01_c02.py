"""C01 and C02 on made-up studies for which the verdict is known, in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from ics.claims import BUDGETS, Evidence, weigh
from ics.claims.c01_shape_drift import C01, SHAPE_CHANGES
from ics.claims.c02_gaussianity import C02
from ics.claims.method.claim import Claim

SETTINGS = ("digits, ReLU", "digits, tanh")
STATES = ("ks", "skewness", "excess_kurtosis", "density", "zero_fraction")
LOOKS = ((0, 0), (10, 10), (20, 20), (10, 0), (20, 0), (20, 10))


def study(factor: float | Mapping[str, float], *, seeds: int = 4, spread: float = 0.02) -> pd.DataFrame:
    """u is 1 by every measure; Wu+b is `factor`, or that of the measure; first and last layer are misleading."""
    rows = []
    for seed, site, layer, (step, then) in product(range(seeds), ("input", "preactivation"), range(4), LOOKS):
        states = (*STATES, *(f"pooled_{name}" for name in STATES), "shape_floor", "ks_of_normal")
        for name in states if step == then else SHAPE_CHANGES:
            wanted = factor if isinstance(factor, float) else factor.get(name, 0.5)
            value = wanted * (1 + spread * seed) if site == "preactivation" else 1.0
            value = value if 0 < layer < 3 else 1e3
            rows.append(
                {"layer": f"l{layer}", "layer_index": layer, "fan_in": 8, "site": site, "step": step, "seed": seed}
                | {"reference_step": then, "measure": name, "value": value, "num_units": 8, "num_constant": 2}
            )
    return pd.DataFrame(rows)


def weighed(claim: Claim, *studies: pd.DataFrame):
    found = dict(zip(SETTINGS, studies if len(studies) > 1 else studies * 2, strict=True))
    return weigh(claim, Evidence.of_frames(studies=found))


@pytest.mark.parametrize(("factor", "outcome"), [(0.5, "supported"), (2.0, "contradicted"), (0.97, "contradicted")])
def test_shape_changes_less_or_more(factor: float, outcome: str) -> None:
    effects, verdict = weighed(C01, study(factor))
    assert verdict.outcome == outcome
    votes = [effect for effect in effects if effect.scale == "ratio"]
    assert {(effect.measure, effect.setting) for effect in votes} == set(product(SHAPE_CHANGES, SETTINGS))
    assert all(effect.numbers == pytest.approx([factor * (1 + 0.02 * seed) for seed in range(4)]) for effect in votes)
    (constant, *_) = [effect for effect in effects if effect.measure == "constant"]
    assert constant.numbers == pytest.approx([0.25] * 4)


def test_shape_claims_can_be_mixed_and_open() -> None:
    assert weighed(C01, study({"shape_change": 2.0}))[1].outcome == "mixed"
    assert weighed(C01, study(0.5), study(2.0))[1].outcome == "mixed"
    assert weighed(C01, study(0.5, seeds=1))[1].outcome == "inconclusive"
    noisy = weighed(C01, study(0.7, spread=0.5))[1]
    assert noisy.outcome == "inconclusive"
    assert noisy.seeds_needed is not None


def test_a_net_that_diverges_is_no_support() -> None:
    lost = study(0.5, seeds=5)
    made = (lost["site"] == "preactivation") & (lost["step"] > 0)
    effects, verdict = weighed(C01, lost.assign(value=lost["value"].mask(made, math.inf)))
    assert verdict.outcome == "contradicted"
    assert effects[0].numbers == (math.inf,) * 5


def test_units_without_a_shape_leave_it_open() -> None:
    dead = study(0.5).assign(value=math.nan)
    effects, verdict = weighed(C01, dead)
    assert verdict.outcome == "inconclusive"
    assert "undefined" in verdict.reason
    assert effects[0].estimate.num_undefined == 4


GAUSSIAN = {"density": 2.0, "pooled_density": 2.0}
LESS_GAUSSIAN = dict.fromkeys((*STATES, *(f"pooled_{name}" for name in STATES)), 2.0) | dict.fromkeys(GAUSSIAN, 0.5)


@pytest.mark.parametrize(
    ("factor", "outcome"),
    [
        (GAUSSIAN, "supported"),
        (LESS_GAUSSIAN, "contradicted"),
        (GAUSSIAN | {"pooled_ks": 2.0}, "mixed"),
        (GAUSSIAN | {"density": 1.0}, "mixed"),
    ],
)
def test_more_gaussian_or_less(factor: dict[str, float], outcome: str) -> None:
    effects, verdict = weighed(C02, study(factor))
    assert verdict.outcome == outcome
    assert len([effect for effect in effects if effect.scale == "ratio"]) == 2 * 8
    ks = next(effect for effect in effects if effect.measure == "pooled_ks")
    assert ks.numbers[0] == pytest.approx(factor.get("pooled_ks", 0.5))


def test_one_seed_does_not_make_it_gaussian() -> None:
    assert weighed(C02, study(GAUSSIAN, seeds=1))[1].outcome == "inconclusive"


def test_the_same_studies_serve_both(tmp_path: Path) -> None:
    with_images = replace(BUDGETS["cpu"], images=tmp_path)
    for budget in (*BUDGETS.values(), with_images):
        assert C01.studies(budget) == C02.studies(budget)
    assert [one.name for one in C01.studies(with_images)] == [*SETTINGS, "images"]
    assert [one.settings.get("activation", "relu") for one in C01.studies(BUDGETS["quick"])] == ["relu", "tanh"]
