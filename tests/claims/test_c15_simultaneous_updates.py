"""C15: a step made in three ways, against arithmetic by hand and torch.func; verdicts on made-up errors."""

from __future__ import annotations

import copy
import math
from itertools import product
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ics.claims import BUDGETS, Evidence, weigh
from ics.claims.c15_simultaneous_updates import C15, moving, three_ways
from ics.experiments import RunConfig
from ics.experiments.training.experiment import prepare

SEEDS = range(4)
NETS = ("standard", "BatchNorm")


def sum_of_outputs(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0]).sum()


def product_of_two(a: float, b: float) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(a)
        model[1].weight.fill_(b)
    return model


def test_a_product_of_two_weights() -> None:
    # L = a b: linear in each, so that a layer alone, or in its turn, makes no error; together lr^2 (dL/da)(dL/db) a b.
    a, b, rate = 2.0, 3.0, 0.1
    batch = (torch.ones(1, 1, dtype=torch.float64), torch.zeros(1))
    found = three_ways(product_of_two(a, b), sum_of_outputs, batch, learning_rate=rate)
    promised = -rate * (a**2 + b**2)
    together = (a - rate * b) * (b - rate * a) - a * b
    assert found["loss"] == pytest.approx(6.0)
    assert found["promised"] == pytest.approx(promised)
    assert found["alone"] == pytest.approx(promised)
    assert found["together"] == pytest.approx(together)
    assert found["error_together"] == pytest.approx(rate**2 * a * b / -promised)
    assert found["interaction"] == pytest.approx(found["error_together"])
    assert found["error_alone"] == pytest.approx(0.0, abs=1e-12)
    assert found["error_in_turn"] == pytest.approx(0.0, abs=1e-12)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    return nn.Sequential(*layers).double()


GROUPS = (("0.weight", "0.bias", "1.weight", "1.bias"), ("3.weight", "3.bias"), ("5.weight", "5.bias"))


def squares(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def by_hand(model: nn.Module, batch: Any, rate: float) -> dict[str, float]:
    """The same by torch.func, on dictionaries of parameters: nothing is ever moved in place."""
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}

    def loss(point: dict[str, Tensor]) -> Tensor:
        fresh = {name: value.clone() for name, value in buffers.items()}
        return (functional_call(model, (point, fresh), (batch[0],)) - batch[1]).square().mean()

    def gradient(point: dict[str, Tensor]) -> dict[str, Tensor]:
        leaves = {name: value.clone().requires_grad_() for name, value in point.items()}
        return dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))

    def step(point: dict[str, Tensor], slope: dict[str, Tensor], names: Any) -> dict[str, Tensor]:
        return {name: value - rate * slope[name] if name in names else value for name, value in point.items()}

    g, origin = gradient(start), float(loss(start))
    promises = [-rate * sum(float(g[name].square().sum()) for name in names) for names in GROUPS]
    promised = sum(promises)
    alone = [float(loss(step(start, g, names))) - origin for names in GROUPS]
    together = float(loss(step(start, g, tuple(start)))) - origin
    point, error, total = start, 0.0, 0.0
    for names in GROUPS:
        slope, before = gradient(point), float(loss(point))
        promise = -rate * sum(float(slope[name].square().sum()) for name in names)
        point = step(point, slope, names)
        error, total = error + abs(float(loss(point)) - before - promise), total + promise
    return {
        "error_together": abs(together - promised) / -promised,
        "error_alone": sum(abs(a - p) for a, p in zip(alone, promises, strict=True)) / -promised,
        "error_in_turn": error / -total,
        "interaction": abs(together - sum(alone)) / -promised,
    }


def test_a_net_with_batch_norm_whose_gamma_and_beta_move_with_the_layer_before() -> None:
    model = small_net()
    batch = (torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64))
    before = copy.deepcopy(model.state_dict())
    found = three_ways(model, squares, batch, learning_rate=0.3)
    expected = by_hand(model, batch, 0.3)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_a_gradient_nothing_is_promised() -> None:
    batch = (torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1))
    found = three_ways(product_of_two(1.0, 1.0), sum_of_outputs, batch, learning_rate=0.1)
    assert found["promised"] == 0
    assert math.isnan(found["error_together"])
    assert math.isnan(found["interaction"])


def test_looking_does_not_change_the_training() -> None:
    settings = {"hidden": (6, 6), "steps": 5, "learning_rate": 0.1, "batch_size": 32, "dtype": "float64"}
    config = RunConfig(net="BatchNorm", model="mlp", data="digits", norm="batch", device="cpu", **settings)
    rows = moving(seed=1, config=config.as_dict(), every=2)
    assert rows["step"].tolist() == [0, 2, 4]
    experiment, losses = prepare(config.replace(seed=1)), []
    for batch in experiment.batches():
        experiment.optimizer.zero_grad()
        loss = experiment.loss_fn(experiment.model, batch)
        loss.backward()
        experiment.optimizer.step()
        losses.append(float(loss.detach()))
    assert rows["loss"].tolist() == losses[::2]


def errors(*, together: float, alone: float, in_turn: float, interaction: float) -> dict[str, pd.DataFrame]:
    found = {}
    for net in NETS:
        found[net] = pd.DataFrame(
            {"net": net, "seed": seed, "step": step, "promised": -1.0, "loss": 0.5}
            | {"error_together": together * (1 + 0.01 * seed), "error_alone": alone, "error_in_turn": in_turn}
            | {"interaction": interaction * (1 + 0.01 * seed)}
            for seed, step in product(SEEDS, (0, 10))
        )
    return found


@pytest.mark.parametrize(
    ("together", "apart", "interaction", "outcome"),
    [
        (0.6, 0.2, 0.4, "supported"),
        (0.2, 0.4, 0.01, "contradicted"),
        (0.03, 0.01, 0.02, "mixed"),  # the error is from moving together, and too small to matter
    ],
)
def test_together_or_apart(together: float, apart: float, interaction: float, outcome: str) -> None:
    studies = errors(together=together, alone=apart, in_turn=apart, interaction=interaction)
    effects, verdict = weigh(C15, Evidence.of_frames(studies=studies))
    assert verdict.outcome == outcome
    ratios = [effect for effect in effects if effect.measure == "together_over_alone"]
    assert [effect.setting for effect in ratios] == list(NETS)
    assert ratios[0].numbers == pytest.approx([together * (1 + 0.01 * seed) / apart for seed in SEEDS])


def test_the_two_ways_of_one_layer_at_a_time_can_disagree() -> None:
    studies = errors(together=0.6, alone=0.2, in_turn=0.9, interaction=0.4)
    assert weigh(C15, Evidence.of_frames(studies=studies))[1].outcome == "mixed"


def test_a_loss_that_overflows_is_an_error_without_bound_and_no_gradient_is_none() -> None:
    studies = errors(together=0.6, alone=0.2, in_turn=0.2, interaction=0.4)
    studies["standard"] = studies["standard"].assign(error_together=math.nan)
    studies["BatchNorm"] = studies["BatchNorm"].assign(error_together=math.nan, promised=0.0)
    effects, _ = weigh(C15, Evidence.of_frames(studies=studies))
    found = {effect.setting: effect.numbers for effect in effects if effect.measure == "together_over_alone"}
    assert found["standard"] == (math.inf,) * 4
    assert all(map(math.isnan, found["BatchNorm"]))


def test_one_seed_decides_nothing() -> None:
    studies = errors(together=0.6, alone=0.2, in_turn=0.2, interaction=0.4)
    alone = {net: rows[rows["seed"] == 0] for net, rows in studies.items()}
    assert weigh(C15, Evidence.of_frames(studies=alone))[1].outcome == "inconclusive"


def test_digits_are_looked_at_in_float64_and_no_instrument_is_on() -> None:
    configs = [study.settings["config"] for study in C15.studies(BUDGETS["quick"])]
    assert [config["net"] for config in configs] == list(NETS)
    assert all(config["dtype"] == "float64" and "instruments" not in config for config in configs)
