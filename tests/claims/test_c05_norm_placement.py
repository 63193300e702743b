"""C05 on tables for which the verdict is known, in both directions."""

from __future__ import annotations

import pandas as pd
import pytest

from ics.claims import BUDGETS, CLAIMS, Evidence, base, weigh
from tests.claims.made_up import distributions, diverging, losses, named

NETS = ("standard", "BatchNorm", "BatchNorm of u")


def tables(
    rates: tuple[float, float, float], accuracies: tuple[float, float, float], *, seeds: range = range(5)
) -> dict[str, pd.DataFrame]:
    steps, activations = [], []
    for net, rate, accuracy, pace in zip(NETS, rates, accuracies, (0.3, 0.2, 0.1), strict=True):
        steps += losses(net, rate, seeds=seeds, test_accuracy=accuracy)
        activations += distributions(net, pace=pace, spread=pace, skewing=pace, seeds=seeds)
    return {"steps": pd.DataFrame(steps), "activations": pd.DataFrame(activations)}


def weighed(frames):
    return weigh(CLAIMS["C05"], Evidence.of_frames(frames))


@pytest.mark.parametrize(
    ("rates", "accuracies", "outcome"),
    [
        ((0.02, 0.08, 0.04), (0.8, 0.9, 0.8), "supported"),
        ((0.02, 0.04, 0.08), (0.8, 0.8, 0.9), "contradicted"),
        ((0.02, 0.06, 0.06), (0.8, 0.9, 0.9), "contradicted"),  # "as well" is not "better"
        ((0.02, 0.08, 0.04), (0.8, 0.8, 0.9), "mixed"),
    ],
)
def test_which_place_is_better(rates, accuracies, outcome) -> None:
    assert weighed(tables(rates, accuracies))[1].outcome == outcome


def test_numbers_by_hand() -> None:
    effects, _ = weighed(tables((0.02, 0.08, 0.04), (0.8, 0.9, 0.85)))
    steps = named(effects, "steps", "digits").numbers[0]
    # exp(-rate t) = 1/4 at t = 17.3 and 34.7; the running mean over ten steps lags behind both by about five.
    assert steps == pytest.approx((17.3 + 5) / (34.7 + 5), abs=0.04)
    assert named(effects, "test_accuracy", "digits").numbers[0] == pytest.approx(0.05)
    assert named(effects, "mean_shift", "digits").estimate.center == pytest.approx(2.0)
    assert named(effects, "skewness_change", "digits").numbers[0] == pytest.approx(2.0)
    against_none = named(effects, "skewness_change", "batch-after-activation against none, digits")
    assert against_none.numbers[0] == pytest.approx(1 / 3)


def test_one_seed_decides_nothing() -> None:
    assert weighed(tables((0.02, 0.08, 0.04), (0.8, 0.9, 0.8), seeds=range(1)))[1].outcome == "inconclusive"


def test_a_net_that_diverged_loses() -> None:
    frames = tables((0.02, 0.08, 0.04), (0.8, 0.9, 0.8))
    others = frames["steps"].query("net != 'BatchNorm of u'")
    frames["steps"] = pd.concat([others, pd.DataFrame(diverging("BatchNorm of u", test_accuracy=0.1))])
    effects, verdict = weighed(frames)
    assert verdict.outcome == "supported"
    assert set(named(effects, "final_loss").numbers) == {0.0}
    assert set(named(effects, "steps").numbers) == {0.0}


def test_the_nets_are_shared_ones() -> None:
    quick = BUDGETS["quick"]
    assert CLAIMS["C05"].nets(quick)[:2] == (base(quick), base(quick, norm="batch"))
