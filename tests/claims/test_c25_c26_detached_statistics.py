"""C25 and C26 on tables for which the verdict is known, and their studies against what must come out."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from ics.claims import BUDGETS, CLAIMS, Evidence, base, net_name, weigh
from ics.claims.c25_c26_detached_statistics import FASTER, growth_exponents
from ics.claims.measures.training import last_norm, peak_loss
from ics.claims.method.runs import changed
from ics.claims.studies.detached_training import FIXED, bias_alone, detached_training
from ics.experiments.training.experiment import prepare

SEEDS = range(4)
BATCH, MEAN, BOTH = (net_name(norm) for norm in ("batch", "batch-detached-mean", "batch-detached"))


def alone(loss_change: float, bend: float) -> pd.DataFrame:
    rows = [
        {
            "net": net,
            "seed": seed,
            "step": step,
            "loss": 2.0 * (1 + loss_change * step),
            "displacement": 0.0 if net == BATCH else 0.3 * step,
            "from_line": math.nan if net == BATCH or step == 0 else bend * step,
        }
        for net, seed, step in product((BATCH, MEAN), SEEDS, range(4))
    ]
    return pd.DataFrame(rows)


def trainings(exponent: float, put_back: float = 0.0, *, weights: float = 1.0, peak: float = 1.0) -> pd.DataFrame:
    """Displacements that grow as a power of the steps; the weights and the peak are those of both detached."""
    rows = []
    for net, fixed, seed, step in product((BATCH, MEAN, BOTH), ("", FIXED), SEEDS, (10, 20, 30, 40)):
        both = net == BOTH
        rows.append(
            {"net": net + fixed, "seed": seed, "step": step, "first_loss": 2.0}
            | {"loss": (2.0 if both else 1.0) * (1 + 0.01 * seed), "peak_loss": 2.0 * (peak if both else 1.0)}
            | {"displacement": 0.0 if net == BATCH else step**exponent * (1 + 0.01 * seed), "bias_norm": 1.0}
            | {"weight_norm": (weights if both else 1.0) * (1 + 0.01 * seed)}
            | {"loss_change": put_back if step == 40 else math.nan}
        )
    return pd.DataFrame(rows)


def recorded(
    nets: dict[str, float], *, parameter: str, losses: dict[str, list[float]] | None = None
) -> dict[str, pd.DataFrame]:
    """Norms at the last of two steps by net, of two hidden layers and the output, which does not count."""
    gradients, steps = [], []
    for (net, norm), seed in product(nets.items(), SEEDS):
        for step, layer in product((0, 10), range(3)):
            size = 100.0 if layer == 2 else 1.0 if step == 0 else norm * (1 + 0.01 * seed)
            for of in (f"linear{layer}.{parameter}", f"norm{layer}.{parameter}"):
                row = {"net": net, "seed": seed, "step": step, "layer": f"linear{layer}", "layer_index": layer}
                gradients.append(row | {"of": of, "kind": "parameter", "parameter_norm": size})
        curve = (losses or {}).get(net, [2.0, 1.0])
        steps += [{"net": net, "seed": seed, "step": step, "loss": loss} for step, loss in enumerate(curve)]
    return {"gradients": pd.DataFrame(gradients), "steps": pd.DataFrame(steps)}


def judged(
    *, loss_change: float = 0.0, bend: float = 0.0, put_back: float = 0.0, exponent: float = 1.0, growth: float = 5.0
) -> tuple[dict[str, float], str]:
    studies = {"bias_alone": alone(loss_change, bend), "detached_training": trainings(exponent, put_back)}
    tables = recorded({BATCH: 1.0, MEAN: growth}, parameter="bias")
    weights = recorded({BATCH: 2.0, MEAN: 2.0}, parameter="weight")
    tables["gradients"] = pd.concat([tables["gradients"], weights["gradients"]])
    effects, verdict = weigh(CLAIMS["C25"], Evidence.of_frames(tables, studies=studies))
    return {effect.measure: effect.estimate.center for effect in effects}, verdict.outcome


def test_a_bias_that_grows_and_moves_no_loss() -> None:
    found, outcome = judged()
    assert outcome == "supported"
    assert found["growth_exponent"] == pytest.approx(1.0)
    assert found["bias_norm"] == pytest.approx(5.0)
    assert found["bias_over_weight"] == pytest.approx(2.5)
    assert found["loss_change_alone"] == found["departure_from_line"] == found["loss_change_put_back"] == 0.0


@pytest.mark.parametrize(
    "change", [{"loss_change": 1e-3}, {"bend": 1e-3}, {"put_back": 1e-3}, {"exponent": 0.01}, {"growth": 1.1}]
)
def test_each_part_of_the_argument_can_fail(change: dict[str, float]) -> None:
    assert judged(**change)[1] == "mixed"


def test_nothing_of_the_argument_holds() -> None:
    failing = {"loss_change": 1e-3, "bend": 1e-3, "put_back": 1e-3, "exponent": 0.01, "growth": 1.1}
    assert judged(**failing)[1] == "contradicted"


def test_growth_exponents() -> None:
    exponents = growth_exponents(trainings(0.5))
    assert exponents[MEAN, 0] == pytest.approx(0.5, abs=0.02)
    assert np.isnan(exponents[BATCH, 0])  # it did not move
    overflown = trainings(0.5).assign(displacement=lambda rows: rows["displacement"].where(rows["step"] < 40, np.inf))
    assert growth_exponents(overflown)[MEAN, 0] == math.inf


def test_norms_and_peaks_of_hidden_layers() -> None:
    tables = recorded(
        {"a": 3.0, "b": math.nan}, parameter="weight", losses={"a": [2.0, 5.0, 1.0], "b": [2.0, math.nan]}
    )
    found = Evidence.of_frames(tables)
    assert last_norm(found, parameter="weight")["a", 0] == pytest.approx(math.sqrt(2) * 3.0)
    assert last_norm(found, parameter="weight")["b", 0] == math.inf
    assert peak_loss(found).loc[[("a", 0), ("b", 0)]].tolist() == [2.5, math.inf]


def scale(final: float, peak: float, weights: float) -> str:
    """The verdict on C26 where mean and variance detached end, peak and weigh so, beside the mean alone detached."""
    curves = {BOTH: [2.0, 2.0 * peak, final], MEAN: [2.0, 2.0, 1.0], BATCH: [2.0, 1.0, 0.5]}
    nets = {net + suffix: net for net, suffix in product(curves, ("", FASTER))}
    tables = recorded(
        {name: weights if net == BOTH else 1.0 for name, net in nets.items()},
        parameter="weight",
        losses={name: curves[net] for name, net in nets.items()},
    )
    rows = trainings(1.0, weights=weights, peak=peak)
    rows["loss"] = rows["loss"].where(~rows["net"].str.startswith(BOTH), final * (1 + 0.01 * rows["seed"]))
    return weigh(CLAIMS["C26"], Evidence.of_frames(tables, studies={"detached_training": rows}))[1].outcome


@pytest.mark.parametrize(
    ("final", "peak", "weights", "outcome"),
    [(2.0, 3.0, 4.0, "supported"), (1.0, 1.0, 1.0, "contradicted"), (2.0, 1.0, 1.0, "mixed"), (0.5, 3.0, 4.0, "mixed")],
)
def test_worse_or_blown_up(final: float, peak: float, weights: float, outcome: str) -> None:
    assert scale(final, peak, weights) == outcome


def test_one_seed_decides_nothing() -> None:
    studies = {"bias_alone": alone(0.0, 0.0), "detached_training": trainings(1.0)}
    tables = recorded({BATCH: 1.0, MEAN: 5.0}, parameter="bias")
    single = Evidence.of_frames(
        {name: rows[rows["seed"] == 0] for name, rows in tables.items()},
        studies={name: rows[rows["seed"] == 0] for name, rows in studies.items()},
    )
    assert weigh(CLAIMS["C25"], single)[1].outcome == "inconclusive"


def small(**changes: object) -> dict[str, object]:
    plain = {"instruments": {}, "options": {}, "evaluate_every": 0, "dtype": "float64", "hidden": (6, 5), "steps": 8}
    settings = changed(base(BUDGETS["quick"], norm="batch-detached-mean", **plain, **changes))
    return {name: value for name, value in settings.items() if name != "norm"}


def test_biases_alone_move_along_a_line_and_change_no_loss() -> None:
    rows = bias_alone(seed=0, config=small(), steps=20).set_index("net")
    detached, batch = rows.loc[MEAN], rows.loc[BATCH]
    assert np.ptp(detached["loss"]) < 1e-13
    assert detached["from_line"].max() < 1e-12
    # The gradient at the start, by autograd: each step repeats it.
    experiment = prepare(base(BUDGETS["quick"], norm="batch-detached-mean").replace(**small()))
    experiment.loss_fn(experiment.model, next(experiment.batches())).backward()
    gradient = torch.cat([getattr(experiment.model, name).bias.grad for name in ("linear1", "linear2")])
    assert detached["displacement"].iloc[-1] == pytest.approx(19 * 0.1 * float(gradient.norm()), rel=1e-12)
    assert batch["displacement"].max() < 1e-14
    assert batch["from_line"].isna().all()


def test_whole_trainings_are_those_of_sgd() -> None:
    rows = detached_training(seed=1, config=small(), num_measurements=4)
    assert rows.groupby("net")["step"].agg(list).map(tuple).unique().tolist() == [(2, 4, 6, 8)]
    experiment = prepare(base(BUDGETS["quick"], norm="batch-detached").replace(**small(), seed=1))
    start = torch.cat([getattr(experiment.model, name).bias.detach().clone() for name in ("linear1", "linear2")])
    losses = []
    for batch in experiment.batches():
        loss = experiment.loss_fn(experiment.model, batch)
        gradients = torch.autograd.grad(loss, list(experiment.model.parameters()))
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for parameter, gradient in zip(experiment.model.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    end = torch.cat([getattr(experiment.model, name).bias.detach() for name in ("linear1", "linear2")])
    last = rows[rows["net"] == BOTH].iloc[-1]
    assert last["loss"] == pytest.approx(sum(losses[-2:]) / 2)
    assert last["displacement"] == pytest.approx(float((end - start).norm()))
    assert rows[rows["net"] == BOTH]["peak_loss"].max() == pytest.approx(max(losses))
    assert rows["loss_change"].max() < 1e-13
    assert rows["loss_change"].notna().sum() == 6


def test_gamma_and_beta_stay_where_they_are_fixed() -> None:
    rows = detached_training(seed=0, config=small(), num_measurements=2).set_index(["net", "step"])
    # The first step's loss is the same; after it they part.
    assert rows.loc[(MEAN, 8), "first_loss"] == rows.loc[(MEAN + FIXED, 8), "first_loss"]
    assert rows.loc[(MEAN, 8), "loss"] != rows.loc[(MEAN + FIXED, 8), "loss"]
