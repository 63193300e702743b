"""Nets compared at equal loss: curves whose values are known at every loss."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ics.claims import BUDGETS, Evidence, base
from ics.claims.measures.equal_loss import at_equal_loss, early_nets, early_pairs

NETS = ("slow", "fast")


def curve(net: str, losses: list[float], *, factor: float) -> pd.DataFrame:
    """A value of factor * loss^2 at each loss; a power is a straight line on logarithmic axes."""
    rows = {"net": net, "seed": 0, "step": range(len(losses)), "loss": losses}
    return pd.DataFrame(rows | {"value": factor * np.square(losses)})


def compared(slow: list[float], fast: list[float]) -> pd.DataFrame:
    rows = pd.concat([curve("slow", slow, factor=1.0), curve("fast", fast, factor=3.0)], ignore_index=True)
    steps = Evidence.of_frames({"steps": rows[["net", "seed", "step", "loss"]]})
    return at_equal_loss(steps, rows[["net", "seed", "step", "value"]], ["value"], nets=NETS)


def test_values_are_taken_at_losses_that_both_have_whenever_they_had_them() -> None:
    found = compared([4.0, 3.9, 3.5, 1.0], [4.0, 0.9, 0.1])
    for net, factor in (("slow", 1.0), ("fast", 3.0)):
        own = found[found["net"] == net]
        assert own["loss"].max() == pytest.approx(4.0)
        assert own["loss"].min() == pytest.approx(1.0)
        assert own["value"].tolist() == pytest.approx((factor * own["loss"] ** 2).tolist())


def test_a_loss_that_goes_up_again_is_no_harm() -> None:
    found = compared([4.0, 1.0, 2.0], [4.0, 0.5])
    assert found["value"].notna().all()


@pytest.mark.parametrize("fast", [[0.9, 0.5], [1.1, 0.1], [math.nan, math.inf]])
def test_nets_that_hardly_have_a_loss_in_common_are_not_compared(fast: list[float]) -> None:
    assert compared([4.0, 1.0], fast)["value"].isna().all()


def test_a_value_that_is_not_known_is_left_out() -> None:
    rows = pd.concat([curve("slow", [4.0, 2.0, 1.0], factor=1.0), curve("fast", [4.0, 2.0, 1.0], factor=3.0)])
    steps = Evidence.of_frames({"steps": rows[["net", "seed", "step", "loss"]]})
    for wrong in (math.nan, math.inf, 0.0):
        spoilt = rows.assign(value=rows["value"].where(rows["loss"] != 2.0, wrong))
        found = at_equal_loss(steps, spoilt, ["value"], nets=NETS)
        assert found["value"].tolist() == pytest.approx(
            [factor * loss**2 for factor in (1.0, 3.0) for loss in np.geomspace(4.0, 1.0, 20)]
        )


def test_which_nets_are_compared() -> None:
    images = Path("cifar10.tar.xz")
    cpu, paper = (replace(BUDGETS[name], images=images) for name in ("cpu", "paper"))
    for budget, settings in ((BUDGETS["quick"], ["digits"]), (cpu, ["digits", "images"])):
        pairs = early_pairs(budget)
        assert [setting for setting, _ in pairs] == settings
        assert [config.net for config in early_nets(budget)] == [net for _, nets in pairs for net in nets]
    on_images = early_nets(cpu)[2:]
    assert {config.steps for config in on_images} == {3 * cpu.image_steps}
    assert {config.data for config in on_images} == {base(cpu, "images").data}
    assert early_nets(paper) == ()
    names = base(paper, "images").net, base(paper, "images", norm="batch").net
    assert early_pairs(paper) == [("images", names)]
