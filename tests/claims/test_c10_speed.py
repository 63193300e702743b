"""C10 on tables for which the verdict is known, in both directions."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ics.claims import BUDGETS, CLAIMS, Evidence, base, weigh
from ics.claims.c10_speed import grid
from tests.claims.made_up import diverging, losses, named

QUICK = BUDGETS["quick"]
RATES = grid(QUICK, "digits")
NETS = {config.net: config for config in CLAIMS["C10"].nets(QUICK)}


def tables(batch: tuple[float, float], standard: tuple[float, float], *, seeds: range = range(5)) -> dict:
    """For each kind of net how much of its learning rate becomes speed, and the largest one that it bears."""
    steps = []
    for net, config in NETS.items():
        speed, bears = batch if config.norm == "batch" else standard
        is_borne = config.learning_rate <= bears
        rows = losses(net, speed * config.learning_rate, seeds=seeds) if is_borne else diverging(net, seeds=seeds)
        steps += rows
    return {"steps": pd.DataFrame(steps)}


def weighed(frames):
    return weigh(CLAIMS["C10"], Evidence.of_frames(frames, configs=NETS))


@pytest.mark.parametrize(
    ("batch", "standard", "outcome"),
    [
        ((1.0, 3.2), (0.4, 0.4), "supported"),
        ((0.4, 0.4), (1.0, 3.2), "contradicted"),
        ((0.4, 0.4), (0.4, 0.4), "contradicted"),
        ((0.2, 1.6), (0.8, 0.4), "mixed"),  # bears more, and is slower at the same rate
    ],
)
def test_faster_and_larger(batch, standard, outcome) -> None:
    assert weighed(tables(batch, standard))[1].outcome == outcome


def test_numbers_by_hand() -> None:
    effects, _ = weighed(tables((1.0, 3.2), (0.4, 0.4)))
    for other in ("standard", "standard, He"):
        setting = f"digits, against {other}"
        assert named(effects, "largest_rate", setting).numbers == pytest.approx([8.0] * 5)
        # At lr 0.1: exp(-0.1 t) = 1/4 at t = 13.9, exp(-0.04 t) at 34.7; the running mean lags behind by about five.
        assert named(effects, "steps", setting).numbers[0] == pytest.approx((13.9 + 5) / (34.7 + 5), abs=0.04)
        assert named(effects, "steps_at_best_rate", setting).numbers[0] < 0.9
        assert named(effects, "best_rate", setting).numbers == pytest.approx([8.0] * 5)


def test_who_bears_more_than_was_tried_is_not_known() -> None:
    effects, verdict = weighed(tables((1.0, 100.0), (0.4, 100.0)))
    assert all(math.isnan(number) for number in named(effects, "largest_rate", "digits, against standard").numbers)
    open_votes = [vote.outcome for vote in verdict.votes if vote.criterion.measure == "largest_rate"]
    assert open_votes == ["inconclusive"] * 2
    effects, _ = weighed(tables((1.0, 100.0), (0.4, 0.4)))
    largest = named(effects, "largest_rate", "digits, against standard").numbers
    assert largest == pytest.approx([RATES[-1] / 0.4] * 5)


def test_a_net_that_learns_at_no_rate_bears_none() -> None:
    effects, verdict = weighed(tables((1.0, 3.2), (0.4, 0.0)))
    assert set(named(effects, "largest_rate", "digits, against standard").numbers) == {math.inf}
    assert set(named(effects, "steps", "digits, against standard").numbers) == {0.0}
    assert verdict.outcome == "supported"


def test_a_seed_without_all_its_runs_does_not_count() -> None:
    frames = tables((1.0, 3.2), (0.4, 0.4))
    steps = frames["steps"]
    frames["steps"] = steps[~((steps["net"] == "BatchNorm, digits, lr 0.8") & (steps["seed"] == 2))]
    effects, _ = weighed(frames)
    numbers = dict(named(effects, "largest_rate", "digits, against standard").values)
    assert math.isnan(numbers[2])
    assert numbers[1] == pytest.approx(8.0)
    frames["steps"] = steps[steps["net"] != "BatchNorm, digits, lr 0.8"]
    assert "every learning rate" in weighed(frames)[1].reason


def test_one_seed_decides_nothing() -> None:
    assert weighed(tables((1.0, 3.2), (0.4, 0.4), seeds=range(1)))[1].outcome == "inconclusive"


def test_at_their_own_rate_nets_are_shared_ones() -> None:
    for label, norm in (("BatchNorm", "batch"), ("standard", "none")):
        net = f"{label}, digits, lr 0.1"
        assert NETS[net] == base(QUICK, norm=norm, net=net)
    assert NETS["standard, He, digits, lr 0.1"].init == "he"
    assert not NETS["standard, digits, lr 0.2"].instruments
