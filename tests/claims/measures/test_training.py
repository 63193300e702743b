"""Losses of a training, of nets that converge and of nets that diverge."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ics.claims import Evidence, final_loss


def found(train: list[float], test: list[float]) -> Evidence:
    """A net that converges, and another with these losses."""
    nets = {"good": ([2.0, 1.0, 0.5, 0.4], [3.0, math.nan, 0.7, math.nan]), "other": (train, test)}
    rows = [
        {"net": net, "seed": 0, "step": step, "loss": loss, "test_loss": tested}
        for net, losses in nets.items()
        for step, (loss, tested) in enumerate(zip(*losses, strict=True))
    ]
    return Evidence.of_frames({"steps": pd.DataFrame(rows)})


@pytest.mark.parametrize("test", [[3.0, math.nan, math.nan, math.nan], [math.nan] * 4])
def test_the_test_loss_of_a_net_that_diverged_is_not_its_last_finite_one(test: list[float]) -> None:
    losses = final_loss(found([2.0, 9.0, math.nan, math.nan], test), column="test_loss")
    assert losses.to_dict() == {("good", 0): 0.7, ("other", 0): math.inf}


def test_the_last_of_the_losses_that_were_logged() -> None:
    evidence = found([2.0, 1.0, 1.0, 0.9], [3.0, math.nan, 1.5, math.nan])
    assert final_loss(evidence, column="test_loss").to_dict() == {("good", 0): 0.7, ("other", 0): 1.5}
    assert final_loss(evidence).to_dict() == {("good", 0): 0.4, ("other", 0): 0.9}
