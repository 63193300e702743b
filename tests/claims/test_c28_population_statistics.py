"""C28 on tables for which the verdict is known, and its gradients against BatchNorm's in eval mode."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from ics.claims import BUDGETS, CLAIMS, Evidence, base, net_name, weigh
from ics.claims.c25_c26_detached_statistics import FASTER
from ics.claims.c28_population_statistics import distances, gradients_apart, loss_curves
from ics.claims.method.runs import changed
from ics.experiments.training.experiment import prepare

SEEDS = range(4)
BATCH, POPULATION, DETACHED = (net_name(norm) for norm in ("batch", "population", "batch-detached"))


def tables(factor: float) -> dict[str, pd.DataFrame]:
    """Losses e^(-step/10), of BatchNorm 5 % more from seed to seed, of population `factor` times BatchNorm's."""
    steps, gradients = [], []
    for net, suffix, seed in product((BATCH, POPULATION), ("", FASTER), SEEDS):
        identity = {"net": net + suffix, "seed": seed}
        for step in range(20):
            loss = math.exp(-step / 10) * 1.05**seed * (factor if net == POPULATION else 1.0)
            steps.append(identity | {"step": step, "loss": loss, "test_loss": loss if step % 5 == 0 else math.nan})
        for layer, name in product(range(2), ("bias", "weight")):
            row = {"step": 0, "layer": f"linear{layer}", "layer_index": layer, "of": f"linear{layer}.{name}"}
            gradients.append(identity | row | {"kind": "parameter", "parameter_norm": 1.0})
    return {"steps": pd.DataFrame(steps), "gradients": pd.DataFrame(gradients)}


def one_step(apart: float) -> dict[str, pd.DataFrame]:
    rows = [
        {"net": net, "seed": seed, "step": step, "apart": apart * (1 + 0.01 * seed), "cosine": 0.5}
        for net, seed, step in product((POPULATION, DETACHED), SEEDS, range(3))
    ]
    return {"gradients": pd.DataFrame(rows)}


@pytest.mark.parametrize(
    ("factor", "apart", "outcome"),
    [(2.0, 1.0, "supported"), (0.5, 1.0, "supported"), (1.001, 0.001, "contradicted"), (1.001, 1.0, "mixed")],
)
def test_trains_differently_or_not(factor: float, apart: float, outcome: str) -> None:
    effects, verdict = weigh(CLAIMS["C28"], Evidence.of_frames(tables(factor), studies=one_step(apart)))
    assert verdict.outcome == outcome
    found = {(effect.measure, effect.setting): effect for effect in effects}
    assert found["final_loss", "digits"].estimate.center == pytest.approx(factor)
    # Neighbouring seeds are ln 1.05 apart, the last from the first three times as far.
    expected = [abs(math.log(factor)) / math.log(1.05) / times for times in (1, 1, 1, 3)]
    assert found["curves_apart", "digits"].numbers == pytest.approx(expected)


def test_a_net_that_diverges_is_far_away() -> None:
    own = tables(1.0)
    lost = (own["steps"]["net"] == POPULATION) & (own["steps"]["step"] >= 4)
    own["steps"].loc[lost, "loss"] = math.nan
    found = Evidence.of_frames(own)
    curves = loss_curves(found)
    assert np.isfinite(curves.loc[(POPULATION, 0)]).sum() == 2
    assert distances(curves, BATCH, POPULATION)["population from BatchNorm", 0] == math.inf


def test_curves_are_logarithms_of_means() -> None:
    curves = loss_curves(Evidence.of_frames(tables(1.0)))
    assert curves.loc[(BATCH, 0), 3] == pytest.approx(math.log((math.exp(-0.6) + math.exp(-0.7)) / 2))


def test_one_seed_has_no_floor() -> None:
    single = {name: rows[rows["seed"] == 0] for name, rows in tables(2.0).items()}
    own = {name: rows[rows["seed"] == 0] for name, rows in one_step(1.0).items()}
    effects, verdict = weigh(CLAIMS["C28"], Evidence.of_frames(single, studies=own))
    assert verdict.outcome == "inconclusive"
    assert "0 seeds decide nothing, 1 more were undefined" in verdict.reason
    assert {effect.measure for effect in effects} >= {"curves_apart", "gradient_apart", "final_loss"}


def test_the_gradients_of_other_normalisations() -> None:
    plain = {"instruments": {}, "options": {}, "evaluate_every": 0, "dtype": "float64", "hidden": (6, 5), "steps": 4}
    config = base(BUDGETS["quick"], norm="batch", **plain)
    rows = gradients_apart(seed=0, config=changed(config), every=3).set_index(["net", "step"])
    experiment = prepare(config)
    model, wanted = experiment.model, dict(experiment.model.named_parameters())
    for name in ("linear1.bias", "linear2.bias"):
        del wanted[name]

    def gradient(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        loss = experiment.loss_fn(model, batch)
        return torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(wanted.values()))])

    for step, batch in enumerate(experiment.batches()):
        # Eval mode of BatchNorm is the population's formula with the averages over the batches before.
        model.eval()
        other = gradient(batch)
        model.train()
        own = gradient(batch)
        if step == 3:
            assert rows.loc[(POPULATION, 3), "apart"] == pytest.approx(float((other - own).norm() / own.norm()))
            assert rows.loc[(POPULATION, 3), "cosine"] == pytest.approx(float(other @ own / other.norm() / own.norm()))
        experiment.optimizer.zero_grad()
        # A pass that moves no averages a second time: gradients of the first one are used.
        start = 0
        for parameter in wanted.values():
            parameter.grad = own[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        experiment.optimizer.step()
    assert set(rows.index) == {(net, step) for net in (POPULATION, DETACHED) for step in (0, 3)}
    assert rows.loc[(DETACHED, 0), "apart"] > 0.01
