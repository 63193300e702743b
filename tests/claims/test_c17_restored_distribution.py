"""C17 on tables for which the verdict is known, and its control against the training written out."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from ics.claims import BUDGETS, CLAIMS, Evidence, base, weigh
from ics.claims.c17_restored_distribution import gain_lost, standardised_once
from ics.claims.method.runs import changed
from ics.experiments import recipe
from ics.experiments.training.experiment import prepare

SEEDS = range(4)
NETS = tuple(config.net for config in CLAIMS["C17"].nets(BUDGETS["quick"]))
ONCE = ("standardised once", "standardised once, full batch")


def told(net: str, seed: int, *, undone: float, lost: float, final: float) -> list[dict[str, object]]:
    """Each step gains 0.1 on its batch, and standardising alone costs 0.03 whether there was a step or not."""
    steps = [{"net": net, "seed": seed, "step": step, "loss": final} for step in range(20)]
    if not net.startswith("restored"):
        return steps
    kept = 0.1 * (1 - lost * (1 + 0.02 * seed))
    return [
        one
        | {
            "proposed_loss": final - 0.1,
            "floor_loss": final + 0.03,
            "applied_loss": final + 0.03 - kept,
            "undone_fraction": undone * (1 + 0.02 * seed) + 0.2,
            "floor_fraction": 0.2,
            "undone_cosine": -0.5,
            "proposed_update_norm": 2.0,
            "undone_update_norm": 1.0,
        }
        for one in steps
    ]


def evidence(*, undone: float, lost: float, factor: float) -> Evidence:
    rows = [
        row
        for net, seed in product(NETS, SEEDS)
        for row in told(net, seed, undone=undone, lost=lost, final=factor if net.startswith("restored") else 1.0)
    ]
    plain = {"undone": 0.0, "lost": 0.0}
    once = [row for net, seed in product(ONCE, SEEDS) for row in told(net, seed, final=1 + 0.02 * seed, **plain)]
    return Evidence.of_frames({"steps": pd.DataFrame(rows)}, studies={"standardised once": pd.DataFrame(once)})


@pytest.mark.parametrize(
    ("undone", "lost", "factor", "outcome"),
    [
        (0.9, 0.9, 3.0, "supported"),
        (0.05, 0.1, 0.5, "contradicted"),
        (0.05, 0.1, 3.0, "mixed"),
        (0.05, 0.9, 3.0, "mixed"),
    ],
)
def test_a_step_is_undone_or_kept(undone: float, lost: float, factor: float, outcome: str) -> None:
    effects, verdict = weigh(CLAIMS["C17"], evidence(undone=undone, lost=lost, factor=factor))
    assert verdict.outcome == outcome
    found = {(effect.measure, effect.setting): effect for effect in effects}
    assert {setting for _, setting in found} == {"digits", "digits, full batch"}
    assert found["undone_fraction", "digits"].numbers[0] == pytest.approx(undone)  # the floor is taken off
    assert found["gain_lost", "digits, full batch"].numbers[0] == pytest.approx(lost)
    assert found["loss_against_once", "digits"].numbers[0] == pytest.approx(factor)
    assert found["change_over_step", "digits"].numbers[0] == 0.5


def test_one_seed_decides_nothing() -> None:
    found = evidence(undone=0.9, lost=0.9, factor=3.0)
    one = Evidence.of_frames(
        {"steps": found.table("steps", where={"seed": 0})},
        studies={"standardised once": found.study("standardised once").query("seed == 0")},
    )
    assert weigh(CLAIMS["C17"], one)[1].outcome == "inconclusive"


def test_steps_that_gain_nothing_have_nothing_to_lose() -> None:
    rows = pd.DataFrame(told("restored", 0, undone=0.5, lost=0.5, final=1.0))
    assert gain_lost(rows)["restored", 0] == pytest.approx(0.5)
    assert gain_lost(rows.assign(proposed_loss=1.2))["restored", 0] == -np.inf  # yet they gain with restoring
    assert gain_lost(rows.assign(proposed_loss=1.2, applied_loss=rows["floor_loss"])).isna().all()
    late = rows.assign(applied_loss=rows["applied_loss"].where(rows["step"] < 10))
    assert gain_lost(late).isna().all()  # diverged on the way: the sums are of other steps
    uneven = rows.assign(proposed_loss=np.where(rows["step"] < 15, 1.0 - 0.2, 1.0 + 0.2))
    # Gains 15 x 0.2 - 5 x 0.2 = 2; kept 20 x 0.05 = 1.
    assert gain_lost(uneven)["restored", 0] == pytest.approx(0.5)


def test_nets_of_different_lengths_each_have_their_gain() -> None:
    short = pd.DataFrame(told("restored, images", 0, undone=0.5, lost=0.25, final=1.0)).query("step < 7")
    rows = pd.concat([pd.DataFrame(told("restored", 0, undone=0.5, lost=0.5, final=1.0)), short])
    found = gain_lost(rows)
    assert found["restored", 0] == pytest.approx(0.5)
    assert found["restored, images", 0] == pytest.approx(0.25)


def test_the_control_starts_standardised_and_is_left_alone_then() -> None:
    config = recipe("digits-mlp", hidden=(6,), steps=4, dtype="float64", device="cpu", instruments={})
    config = config.replace(whiten_after_step=True)
    frame = standardised_once(seed=2, configs=[{"net": "once", **changed(config)}])
    assert frame["net"].tolist() == ["once"] * 4
    experiment = prepare(config.replace(seed=2))
    model, losses = experiment.model, []
    for number, (inputs, targets) in enumerate(experiment.batches()):
        values = model.get_submodule("linear1")(inputs.flatten(1))
        if number == 0:
            np.testing.assert_allclose(values.detach().mean(dim=0), 0, atol=1e-12)
            np.testing.assert_allclose(values.detach().var(dim=0, correction=0), 1, rtol=1e-12)
        loss = torch.nn.functional.cross_entropy(model.get_submodule("output")(torch.relu(values)), targets)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= config.learning_rate * gradient
    np.testing.assert_allclose(frame["loss"], losses, rtol=1e-10)


def test_the_rivals_are_shared_nets() -> None:
    configs = {config.net: config for config in CLAIMS["C17"].nets(BUDGETS["quick"])}
    assert configs["standard"] == base(BUDGETS["quick"])
    assert configs["BatchNorm"] == base(BUDGETS["quick"], norm="batch")
    assert [name for name, config in configs.items() if config.whiten_after_step] == [
        "restored",
        "restored, full batch",
    ]
