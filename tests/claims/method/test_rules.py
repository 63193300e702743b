"""Rules: verdicts that are known, in both directions."""

from __future__ import annotations

import math

import pytest

from ics.claims import Criterion, Effect, Outcome, above, below, decide, equals, within
from ics.errors import UsageError

INF, NAN = math.inf, math.nan


def effect(*numbers: float, measure: str = "shift", scale: str = "ratio", setting: str = "") -> Effect:
    return Effect(measure=measure, meaning="", unit="1", scale=scale, values=tuple(enumerate(numbers)), setting=setting)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("numbers", "criterion", "outcome"),
    [
        ((0.5, 0.52, 0.55), below("shift", 0.9), Outcome.SUPPORTED),
        ((0.5, 0.52, 0.55), above("shift", 1.1), Outcome.CONTRADICTED),
        ((2.0, 2.1, 1.9), below("shift", 0.9), Outcome.CONTRADICTED),
        ((2.0, 2.1, 1.9), above("shift", 1.1), Outcome.SUPPORTED),
        # too small to count: an effect of one per cent is none
        ((0.99, 0.991, 0.989), below("shift", 0.9), Outcome.CONTRADICTED),
        ((0.99, 0.991, 0.989), within("shift", 0.9, 1.1), Outcome.SUPPORTED),
        ((0.5, 0.52, 0.55), within("shift", 0.9, 1.1), Outcome.CONTRADICTED),
        ((0.3, 0.9, 2.0), below("shift", 0.9), Outcome.INCONCLUSIVE),
        ((0.3, 0.9, 2.0), within("shift", 0.9, 1.1), Outcome.INCONCLUSIVE),
    ],
)
def test_one_criterion(numbers: tuple[float, ...], criterion: Criterion, outcome: Outcome) -> None:
    assert decide([effect(*numbers)], [criterion]).outcome is outcome


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_decide_nothing(n: int) -> None:
    verdict = decide([effect(*[0.01] * n)], [below("shift", 0.9)])
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.seeds_needed == 3
    assert f"{n} seed" in verdict.reason
    exact = decide([effect(*[0.0] * n)], [equals("shift", 0.0, tolerance=1e-9)])
    assert exact.outcome is Outcome.INCONCLUSIVE


def test_measures_that_disagree_are_mixed_and_named() -> None:
    effects = [effect(0.5, 0.51, 0.52, measure="beta"), effect(3.0, 3.1, 3.2, measure="range")]
    verdict = decide(effects, [below("beta", 0.9), below("range", 0.9)])
    assert verdict.outcome is Outcome.MIXED
    assert "supported by beta < 0.9" in verdict.reason
    assert "contradicted by range < 0.9" in verdict.reason


def test_settings_that_disagree_are_mixed() -> None:
    effects = [effect(0.5, 0.51, 0.52, setting="digits"), effect(3.0, 3.1, 3.2, setting="images")]
    verdict = decide(effects, [below("shift", 0.9)])
    assert verdict.outcome is Outcome.MIXED
    assert "(digits)" in verdict.reason
    assert "(images)" in verdict.reason


def test_an_open_measure_leaves_the_claim_open_and_says_how_many_seeds() -> None:
    effects = [effect(0.5, 0.51, 0.52, measure="beta"), effect(0.5, 0.8, 1.0, measure="range")]
    verdict = decide(effects, [below("beta", 0.9), below("range", 0.9)])
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.seeds_needed is not None
    assert verdict.seeds_needed > 3
    assert f"needs about {verdict.seeds_needed} seeds" in verdict.reason


def test_a_measure_without_a_criterion_has_no_vote() -> None:
    effects = [effect(0.5, 0.51, 0.52), effect(9.0, 9.0, 9.0, measure="context")]
    assert decide(effects, [below("shift", 0.9)]).outcome is Outcome.SUPPORTED


def test_a_criterion_without_an_effect_leaves_it_open() -> None:
    verdict = decide([effect(0.5, 0.51, 0.52)], [below("shift", 0.9), below("beta", 0.9)])
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "beta < 0.9: it was not measured" in verdict.reason


def test_an_equality_looks_at_every_value() -> None:
    rule = [equals("change", 0.0, tolerance=1e-9)]
    tiny = effect(1e-12, -1e-13, 3e-12, measure="change", scale="difference")
    assert decide([tiny], rule).outcome is Outcome.SUPPORTED
    # The mean of these is 0, yet the equality is broken.
    broken = effect(1e-3, -1e-3, 0.0, measure="change", scale="difference")
    assert decide([broken], rule).outcome is Outcome.CONTRADICTED
    assert decide([effect(0.0, 0.0, INF, measure="change")], rule).outcome is Outcome.CONTRADICTED


def test_nets_that_diverge_are_evidence_but_need_five_seeds() -> None:
    rule = [below("loss", 0.9)]
    three = decide([effect(0.0, 0.0, 0.1, measure="loss")], rule)
    assert three.outcome is Outcome.INCONCLUSIVE
    assert three.seeds_needed == 5
    assert decide([effect(0.0, 0.0, 0.1, 0.0, 0.0, measure="loss")], rule).outcome is Outcome.SUPPORTED
    assert decide([effect(INF, INF, INF, INF, INF, measure="loss")], rule).outcome is Outcome.CONTRADICTED


def test_mostly_undefined_values_decide_nothing() -> None:
    verdict = decide([effect(0.5, 0.5, 0.5, NAN, NAN, NAN)], [below("shift", 0.9)])
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "undefined for 3 of 6 seeds" in verdict.reason
    assert decide([effect(0.5, 0.5, 0.5, NAN)], [below("shift", 0.9)]).outcome is Outcome.SUPPORTED
    never = decide([effect(*[NAN] * 5)], [below("shift", 0.9)])
    assert "undefined for every seed, which more seeds may not settle" in never.reason
    assert never.seeds_needed is None


def test_the_direction_of_time_does_not_matter() -> None:
    numbers = (0.5, 0.7, 0.6, 0.4)
    verdicts = [decide([effect(*order)], [below("shift", 0.9)]).outcome for order in (numbers, numbers[::-1])]
    assert verdicts[0] is verdicts[1]


def test_criteria_without_a_border_are_refused() -> None:
    with pytest.raises(UsageError, match="border"):
        Criterion("shift")
    with pytest.raises(UsageError, match="border"):
        within("shift", 2.0, 1.0)
    with pytest.raises(UsageError, match="at least one criterion"):
        decide([effect(1.0)], [])


@pytest.mark.parametrize(
    ("criterion", "text"),
    [
        (below("x", 0.9), "x < 0.9"),
        (above("x", -1), "x > -1"),
        (within("x", 0.5, 2), "x within 0.5 to 2"),
        (equals("x", 0, tolerance=1e-9), "x = 0 (every value within 1e-09)"),
    ],
)
def test_criteria_say_what_they_want(criterion: Criterion, text: str) -> None:
    assert criterion.text == text
