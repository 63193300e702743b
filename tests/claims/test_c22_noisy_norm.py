"""C22 on tables for which the verdict is known, in both directions."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ics.claims import BUDGETS, CLAIMS, Evidence, base, weigh
from tests.claims.made_up import distributions, diverging, losses, named

SITES = ("input", "preactivation", "scaled", "activation")


def tables(accuracy: float, loss: float, pace: float, *, seeds: range = range(5)) -> dict[str, pd.DataFrame]:
    """BatchNorm reaches an accuracy of 0.9 and a loss of 0.1, the standard net moves by 0.1; noisy BN as given."""
    nets = {"standard": (0.8, 0.3, 0.1), "BatchNorm": (0.9, 0.1, 0.05), "noisy BatchNorm": (accuracy, loss, pace)}
    steps, activations = [], []
    for net, (own_accuracy, own_loss, own_pace) in nets.items():
        logged = {"train_accuracy": own_accuracy, "test_accuracy": own_accuracy, "train_loss": own_loss}
        steps += losses(net, 0.05, seeds=seeds, **logged)
        sites = SITES if "BatchNorm" in net else ("input", "preactivation", "activation")
        moving = {"spread": own_pace, "sites": sites, "seeds": seeds}
        activations += distributions(net, pace=own_pace, **moving)
        in_pairs = distributions(f"{net}, step by step", pace=own_pace, **moving)
        # Looks at the steps 0, 1 and 20: only the first two follow each other.
        activations += [row | {"step": {0: 0, 20: 1, 40: 20}[row["step"]]} for row in in_pairs]
        steps += losses(f"{net}, step by step", 0.05, seeds=seeds)
    return {"steps": pd.DataFrame(steps), "activations": pd.DataFrame(activations)}


def weighed(frames):
    return weigh(CLAIMS["C22"], Evidence.of_frames(frames))


@pytest.mark.parametrize(
    ("accuracy", "loss", "pace", "outcome"),
    [
        (0.9, 0.1, 0.3, "supported"),
        (0.95, 0.05, 0.3, "supported"),
        (0.8, 0.3, 0.05, "contradicted"),
        (0.9, 0.1, 0.05, "mixed"),  # as good, and more stable
        (0.8, 0.3, 0.3, "mixed"),  # less stable, and worse
    ],
)
def test_as_good_and_less_stable(accuracy, loss, pace, outcome) -> None:
    assert weighed(tables(accuracy, loss, pace))[1].outcome == outcome


def test_numbers_by_hand() -> None:
    effects, _ = weighed(tables(0.88, 0.2, 0.3))
    assert named(effects, "train_accuracy").numbers[0] == pytest.approx(-0.02)
    assert named(effects, "train_loss").numbers == pytest.approx([2.0] * 5)
    assert named(effects, "log_variance_ratio").numbers == pytest.approx([3.0] * 5)
    assert named(effects, "log_variance_ratio_since_start").numbers == pytest.approx([3.0] * 5)
    assert named(effects, "log_variance_ratio_of_step").numbers == pytest.approx([3.0] * 5)
    assert named(effects, "log_variance_ratio_of_step_next_layer").numbers == pytest.approx([3.0] * 5)
    assert named(effects, "log_variance_ratio_of_step_against_batchnorm").numbers == pytest.approx([6.0] * 5)
    assert named(effects, "final_loss", "against standard, digits").numbers == pytest.approx([1.0] * 5)


def test_one_seed_decides_nothing() -> None:
    assert weighed(tables(0.9, 0.1, 0.3, seeds=range(1)))[1].outcome == "inconclusive"


def test_a_net_that_diverged_does_not_train_as_well() -> None:
    frames = tables(0.9, 0.1, 0.3)
    logged = {"train_accuracy": 0.1, "test_accuracy": 0.1, "train_loss": math.inf}
    others = frames["steps"].query("net != 'noisy BatchNorm'")
    frames["steps"] = pd.concat([others, pd.DataFrame(diverging("noisy BatchNorm", **logged))])
    effects, verdict = weighed(frames)
    assert verdict.outcome == "mixed"  # infinitely unstable, and no good
    assert set(named(effects, "train_loss").numbers) == {math.inf}
    assert set(named(effects, "mean_shift").numbers) == {math.inf}


def test_the_nets_are_shared_ones() -> None:
    quick = BUDGETS["quick"]
    nets = CLAIMS["C22"].nets(quick)
    assert nets[:3] == tuple(base(quick, norm=norm) for norm in ("none", "batch", "noisy-batch"))
    steps = [step for step in range(quick.steps) if nets[3].schedules()["activations"].due(step)]
    assert steps[:5] == [0, 1, 20, 21, 40]
