"""C01 on made-up studies for which the verdict is known, in both directions."""

from __future__ import annotations

import math
from itertools import product

import pytest

from ics.claims.c01_shape_drift import C01, SHAPE_CHANGES
from tests.claims.shape_studies import SETTINGS, study, weighed


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
