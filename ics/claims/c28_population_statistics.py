"""C28: does normalisation by running averages, outside the gradient step, train differently from BatchNorm, and how?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ics.claims.c25_c26_detached_statistics import FASTER, at_two_rates
from ics.claims.measures.training import final_loss, last_norm, peak_loss
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above
from ics.claims.method.runs import changed
from ics.claims.method.study import Study
from ics.experiments.data.examples import Batch
from ics.experiments.nets.layers import hidden_layers, layers_in_order
from ics.experiments.training.config import RunConfig
from ics.experiments.training.experiment import Experiment, prepare

_BATCH, _POPULATION = "batch", "population"
_OTHERS = (_POPULATION, "batch-detached")
_STUDY = "gradients"
_NUM_MEASUREMENTS = 20
_PARTS = 10
_APART, _FLOOR = "population from BatchNorm", "BatchNorm from BatchNorm of another seed"


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """BatchNorm and the population's normalisation on each base, at two learning rates."""
    return tuple(net for norm in (_BATCH, _POPULATION) for net in at_two_rates(budget, norm))


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """The gradients of one step, on the digits net in float64 under every budget."""
    config = base(budget, norm=_BATCH, instruments={}, options={}, evaluate_every=0, dtype="float64")
    settings = {"config": changed(config), "every": max(config.steps // _NUM_MEASUREMENTS, 1)}
    return (Study(name=_STUDY, function=f"{__name__}:gradients_apart", settings=settings),)


def gradients_apart(*, seed: int, config: Mapping[str, Any], every: int) -> pd.DataFrame:
    """Train a BatchNorm net and, at the same weights and batch, ask other normalisations for the gradient.

    Args:
        seed: of the weights and the batches.
        config: of the training, as `RunConfig.from_dict` takes it, with `norm` "batch"; `net` may be left out.
        every: steps between two measurements.

    Returns:
        A row per step and other normalisation: `net` (its name), `step`, and with G BatchNorm's gradient and G' the
        other's, over all parameters but hidden biases: `apart` = ||G' - G|| / ||G|| and `cosine` of G and G'. The
        running averages are those of the training: the batches before this one.

    Cost: the training, and two more passes at each measurement.
    """
    trained = prepare(RunConfig.from_dict({"net": _BATCH, **config, "seed": seed}))
    others = {norm: prepare(trained.config.replace(norm=norm)) for norm in _OTHERS}
    rows = []
    for step, batch in enumerate(trained.batches()):
        if step % every == 0:
            for other in others.values():
                # Before the pass, as population normalises by the averages over the batches before.
                other.model.load_state_dict(trained.model.state_dict())
        gradient = _gradient(trained, batch)
        if step % every == 0:
            found = {norm: _compared(gradient, _gradient(other, batch)) for norm, other in others.items()}
            rows += [{"net": net_name(norm), "step": step} | numbers for norm, numbers in found.items()]
        trained.optimizer.step()
    return pd.DataFrame(rows)


def _gradient(experiment: Experiment, batch: Batch) -> Tensor:
    """The gradient of every parameter but hidden biases, as one vector; left in `.grad` for the optimizer."""
    experiment.optimizer.zero_grad()
    experiment.loss_fn(experiment.model, batch).backward()
    hidden = hidden_layers(layers_in_order(experiment.model, batch[0][:2]), needed_for="a normalisation")
    biases = {f"{layer.name}.bias" for layer in hidden}
    named = experiment.model.named_parameters()
    return torch.cat([own.grad.flatten() for name, own in named if name not in biases and own.grad is not None])


def _compared(gradient: Tensor, other: Tensor) -> dict[str, float]:
    cosine = torch.nn.functional.cosine_similarity(gradient, other, dim=0)
    return {"apart": float((other - gradient).norm() / gradient.norm()), "cosine": float(cosine)}


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """How far apart gradients and loss curves are, the curves over how far BatchNorm's own are; then in which way."""
    curves = loss_curves(found)
    final, test, peak = final_loss(found), final_loss(found, column="test_loss"), peak_loss(found)
    biases, weights = last_norm(found, parameter="bias"), last_norm(found, parameter="weight")
    effects: list[Effect] = []
    for name in found.budget.bases:
        for suffix in ("", FASTER):
            batch, population = net_name(_BATCH, name) + suffix, net_name(_POPULATION, name) + suffix
            setting = name + suffix
            effects += [
                ratio(
                    distances(curves, batch, population),
                    _APART,
                    _FLOOR,
                    measure="curves_apart",
                    meaning=f"|ln L - ln L'| of the training losses, median over {_PARTS} parts of the training",
                    setting=setting,
                ),
                value(
                    peak,
                    population,
                    measure="peak_loss",
                    meaning="largest training loss over the first one",
                    unit="1",
                    setting=setting,
                ),
            ]
            told = {
                "final_loss": (final, "mean training loss over the last tenth"),
                "test_loss": (test, "test loss in eval mode, mean over the last tenth"),
                "bias_norm": (biases, "||b|| of all hidden layers at the last measured step"),
                "weight_norm": (weights, "||W|| of all hidden layers at the last measured step"),
            }
            effects += [
                ratio(numbers, population, batch, measure=measure, meaning=meaning, setting=setting)
                for measure, (numbers, meaning) in told.items()
            ]
    return (*effects, *_of_one_step(found))


def _of_one_step(found: Evidence) -> list[Effect]:
    rows = found.study(_STUDY)
    apart, cosine = per_seed(rows, "apart"), per_seed(rows, "cosine")
    population, detached = (net_name(norm) for norm in _OTHERS)
    told = "||G' - G|| / ||G||, G of BatchNorm at the same weights and batch, median over steps"
    turned = "cosine of G' and G, median over steps"
    return [
        value(apart, population, measure="gradient_apart", meaning=told, unit="1"),
        value(apart, detached, measure="gradient_apart_statistics_of_the_batch", meaning=told, unit="1"),
        value(cosine, population, measure="gradient_cosine", meaning=turned, unit="1"),
    ]


def loss_curves(found: Evidence) -> pd.DataFrame:
    """Return ln of the mean training loss in each of ten equal parts of the training.

    A row per (net, seed), a column per part; inf from the part on in which a loss is not finite. Means over parts, as
    losses of single steps differ more between batches than between nets.
    """
    rows = found.table("steps", columns=("step", "loss"))
    length = rows.groupby("run")["step"].transform("max") + 1
    part = (rows["step"] * _PARTS // length).rename("part")
    means = rows["loss"].groupby([rows["net"], rows["seed"], part]).agg(lambda own: own.sum(skipna=False) / len(own))
    with np.errstate(divide="ignore"):
        logarithms = means.where(np.isfinite(means), np.inf).map(np.log)
    return logarithms.unstack("part")


def distances(curves: pd.DataFrame, batch: str, population: str) -> pd.Series:
    """Return how far curves are apart, by pair and seed: the two nets of a seed, and BatchNorm from its next seed.

    The median over parts of |ln L - ln L'|; inf where one of the two diverged for more than half of the training. Two
    nets of a seed start from the same weights and see the same batches, two seeds do neither: if population's were
    BatchNorm with other rounding, their distance would be far below the floor.
    """
    own, other = (_by_seed(curves, net) for net in (batch, population))
    seeds = list(own)
    # In a circle, so that each seed is in two pairs and there are as many floors as seeds.
    following = dict(zip(seeds, [*seeds[1:], *seeds[:1]], strict=True))
    found = {(_APART, seed): _apart(own[seed], other[seed]) for seed in seeds if seed in other}
    # One seed alone has no other to be apart from.
    floors = {(_FLOOR, seed): _apart(own[seed], own[following[seed]]) if len(seeds) > 1 else np.nan for seed in seeds}
    return pd.Series(found | floors, dtype=float).rename_axis(["net", "seed"])


def _by_seed(curves: pd.DataFrame, net: str) -> dict[int, np.ndarray]:
    numbers = curves.index.get_level_values("seed")
    return {
        int(seed): curves.loc[(net, seed)].to_numpy(float) for seed in numbers.unique() if (net, seed) in curves.index
    }


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        gaps = np.abs(one - other)
    # inf - inf: both are lost, which is no distance.
    return float(np.median(np.nan_to_num(gaps, nan=0.0, posinf=np.inf)))


C28 = Claim(
    id="C28",
    nets=nets,
    studies=studies,
    evidence=evidence,
    rule=(
        above("curves_apart", 1.1, why="further from BatchNorm than BatchNorm is from itself, by a tenth at least"),
        above("gradient_apart", 0.1, why="a tenth of the gradient's length is the smallest difference that counts"),
    ),
    published="The model blows up when the normalisation's parameters are computed outside of the gradient step "
    "(Ioffe & Szegedy 2015, sec. 2). No numbers are given.",
    remark="gradient_apart says whether one step from the same weights differs, curves_apart whether trainings come to "
    "differ; neither has a direction. In which way is told by the effects that have no vote: peak_loss is the blow-up "
    "that was reported. The averages give the newest batch a weight of 0.1 and start at mean 0 and variance 1: the "
    "first step is one without normalisation.",
)
