"""C24 on tables for which the verdict is known, in both directions."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ics.claims import BUDGETS, CLAIMS, Evidence, weigh
from ics.claims.c24_regularisation import gains
from tests.claims.made_up import losses, named

NETS = {config.net: config for config in CLAIMS["C24"].nets(BUDGETS["quick"])}
Results = tuple[float, float]
"""Test loss and test accuracy."""


def tables(batch: Results, batch_best: Results, standard: Results, standard_best: Results, *, seeds=range(5)):
    """All nets learn the training set; of each kind of regularisation the middle strength is the best one."""
    steps = []
    for net, config in NETS.items():
        plain, best = (batch, batch_best) if config.norm == "batch" else (standard, standard_best)
        is_best = config.dropout == 0.3 or config.weight_decay == 0.01
        is_plain = not (config.dropout or config.weight_decay)
        loss, accuracy = best if is_best else plain if is_plain else (2.0, 0.2)
        logged = {"train_loss": 0.01, "test_loss": loss, "train_accuracy": 1.0, "test_accuracy": accuracy}
        steps += losses(net, 0.05, seeds=seeds, **logged)
    return {"steps": pd.DataFrame(steps)}


def weighed(frames):
    return weigh(CLAIMS["C24"], Evidence.of_frames(frames, configs=NETS))


GOOD, FAIR, POOR = (0.3, 0.95), (0.6, 0.9), (1.0, 0.8)


@pytest.mark.parametrize(
    ("results", "outcome"),
    [
        ((GOOD, GOOD, POOR, GOOD), "supported"),  # BatchNorm needs nothing, the standard net does
        ((POOR, GOOD, GOOD, GOOD), "contradicted"),
        ((FAIR, FAIR, FAIR, FAIR), "mixed"),  # no difference, so "as good without" alone holds
        ((FAIR, GOOD, POOR, POOR), "mixed"),  # a smaller gap, and more to be gained
    ],
)
def test_less_need_or_more(results, outcome) -> None:
    assert weighed(tables(*results))[1].outcome == outcome


def test_numbers_by_hand() -> None:
    effects, _ = weighed(tables(FAIR, GOOD, POOR, GOOD))
    assert named(effects, "loss_gap").numbers[0] == pytest.approx(0.6 - 1.0)
    assert named(effects, "accuracy_gap").numbers[0] == pytest.approx(-0.1)
    for kind in ("dropout", "weight decay"):
        assert named(effects, "loss_gain", f"digits, {kind}").numbers[0] == pytest.approx((0.6 - 0.3) - (1.0 - 0.3))
        assert named(effects, "accuracy_gain", f"digits, {kind}").numbers[0] == pytest.approx(0.05 - 0.15)
    assert named(effects, "instead_of_dropout").numbers[0] == pytest.approx(0.9 - 0.95)


def test_the_nets_can_learn_by_heart() -> None:
    assert {(config.init, config.steps, config.limit) for config in NETS.values()} == {("he", 1000, 20)}
    effects, _ = weighed(tables(FAIR, GOOD, POOR, GOOD))
    assert named(effects, "train_accuracy", "standard").numbers[0] == pytest.approx(1.0)


def test_the_strength_is_chosen_over_all_seeds_and_may_harm() -> None:
    pairs = {
        ("standard", 0): 0.5,
        ("standard", 1): 0.5,
        ("standard, dropout 0.1", 0): 0.9,
        ("standard, dropout 0.1", 1): 0.2,
        ("standard, dropout 0.3", 0): 0.6,
        ("standard, dropout 0.3", 1): 0.7,
        ("BatchNorm", 0): 0.5,
        ("BatchNorm", 1): 0.5,
        ("BatchNorm, dropout 0.5", 0): 0.4,
        ("BatchNorm, dropout 0.5", 1): 0.3,
    }
    found = gains(pd.Series(pairs).rename_axis(["net", "seed"]), "digits", "dropout")
    assert found["standard"].tolist() == pytest.approx([0.1, 0.2])  # 0.3, whose mean is larger
    assert found["BatchNorm"].tolist() == pytest.approx([-0.1, -0.2])


def test_one_seed_decides_nothing() -> None:
    assert weighed(tables(GOOD, GOOD, POOR, GOOD, seeds=range(1)))[1].outcome == "inconclusive"


def test_a_strength_at_which_training_diverges_is_not_chosen() -> None:
    frames = tables(GOOD, GOOD, POOR, GOOD)
    worst = frames["steps"]["net"].str.contains("0.5") & frames["steps"]["test_loss"].notna()
    frames["steps"].loc[worst, "test_loss"] = math.inf
    assert weighed(frames)[1].outcome == "supported"


def test_without_any_dropout_nothing_is_decided() -> None:
    frames = tables(GOOD, GOOD, POOR, GOOD)
    frames["steps"] = frames["steps"][~frames["steps"]["net"].str.contains("dropout")]
    verdict = weighed(frames)[1]
    assert (verdict.outcome, "dropout" in verdict.reason) == ("inconclusive", True)
