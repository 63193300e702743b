"""What happens to biases and weights if BatchNorm's statistics are constants in the gradient, followed step by step.

The argument of Ioffe & Szegedy (2015, sec. 2): x-hat = u + b - E[u + b] does not depend on b. A step that ignores how E
depends on b sees dL/db = sum of dL/dx-hat, moves b, finds loss and gradient as before, and moves b again. There are two
studies: the argument itself, in which only b is trained, and whole trainings. In these gamma and beta are learned, or
stay at 1 and 0, because the argument is about a layer that has neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.runs import changed
from ics.claims.method.study import Study
from ics.experiments.nets.layers import NetLayer, hidden_layers, layers_in_order
from ics.experiments.training.config import RunConfig
from ics.experiments.training.experiment import Experiment, prepare

ALONE, TRAINING = "bias_alone", "detached_training"
MEAN, BOTH, BATCH = "batch-detached-mean", "batch-detached", "batch"
FIXED = ", gamma and beta fixed"
_STEPS = {"quick": 400, "cpu": 2000, "paper": 10_000}
_ALONE_STEPS = 50
_NUM_MEASUREMENTS = 20


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """Both studies, on the digits net under every budget, in float64, which tells equalities from rounding."""
    steps = _STEPS[budget.name]
    config = base(budget, norm=MEAN, dtype="float64", steps=steps, instruments={}, options={}, evaluate_every=0)
    whole = changed(config)
    return (
        Study(name=ALONE, function=f"{__name__}:bias_alone", settings={"config": whole, "steps": _ALONE_STEPS}),
        Study(
            name=TRAINING,
            function=f"{__name__}:detached_training",
            settings={"config": whole, "num_measurements": _NUM_MEASUREMENTS},
        ),
    )


def bias_alone(*, seed: int, config: Mapping[str, Any], steps: int) -> pd.DataFrame:
    """Train the biases in front of the normalisations, and nothing else, again and again on one batch.

    Args:
        seed: of the initial weights and the batch.
        config: of the net, as `RunConfig.from_dict` takes it; `net` and `norm` are replaced by those compared.
        steps: gradient steps b <- b - lr dL/db.

    Returns:
        A row per net ("BatchNorm", "BatchNorm, mean detached") and step: `net`, `step`, `loss`, and of all those biases
        as one vector `displacement`, ||b_t - b_0||, and `from_line`, ||b_t - b_0 - t (b_1 - b_0)|| / ||t (b_1 - b_0)||,
        which is null where the biases do not move.
    """
    return pd.concat(
        [_bias_alone(_config(config, norm, seed), steps) for norm in (BATCH, MEAN)],
        ignore_index=True,
    )


def _config(settings: Mapping[str, Any], norm: str, seed: int) -> RunConfig:
    return RunConfig.from_dict({**settings, "net": net_name(norm), "norm": norm, "seed": seed})


def _bias_alone(config: RunConfig, steps: int) -> pd.DataFrame:
    experiment = prepare(config)
    batch = next(experiment.batches())
    biases = _own(_hidden(experiment), "bias")
    places = [_joined(biases)]
    losses = []
    for _ in range(steps):
        loss = experiment.loss_fn(experiment.model, batch)
        gradients = torch.autograd.grad(loss, biases)
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for bias, gradient in zip(biases, gradients, strict=True):
                bias.sub_(config.learning_rate * gradient)
        places.append(_joined(biases))
    moved = [float((place - places[0]).norm()) for place in places[:-1]]
    # BatchNorm's gradient of a bias is rounding: a sum of such steps is no line and no departure from one.
    is_still = moved[-1] <= 1e-9 * float(places[0].norm())
    first = places[1] - places[0]
    line = [
        math.nan if is_still or step == 0 else float((place - places[0] - step * first).norm() / (step * first).norm())
        for step, place in enumerate(places[:-1])
    ]
    rows = {"step": range(steps), "loss": losses, "displacement": moved, "from_line": line}
    return pd.DataFrame({"net": net_name(config.norm), **rows})


def detached_training(*, seed: int, config: Mapping[str, Any], num_measurements: int) -> pd.DataFrame:
    """Train whole nets by SGD with the mean, or mean and variance, detached, and with BatchNorm.

    Args:
        seed: of the initial weights and the batches.
        config: of the training, as `RunConfig.from_dict` takes it; `net` and `norm` are replaced by those compared.
        num_measurements: rows per net, after equally many steps each.

    Returns:
        A row per net and step: `net` (names of the norms; with ", gamma and beta fixed" where these stay 1 and 0),
        `step` (steps done), `loss` (mean over the steps since the last row), `first_loss`, `peak_loss` (largest loss
        since the last row), and of the hidden layers together `bias_norm`, `displacement` ||b_t - b_0||, and
        `weight_norm` ||W||. In the last row `loss_change`: the relative change of the last batch's loss in train mode
        if these biases are put back to b_0; null in the others. What is not finite is inf.

    Cost: six trainings without instruments.
    """
    frames = [
        _training(_config(config, norm, seed), fixed=fixed, num_measurements=num_measurements)
        for fixed, norm in product((False, True), (BATCH, MEAN, BOTH))
    ]
    return pd.concat(frames, ignore_index=True)


def _training(config: RunConfig, *, fixed: bool, num_measurements: int) -> pd.DataFrame:
    experiment = prepare(config)
    layers = _hidden(experiment)
    if fixed:
        _fix_gamma_and_beta(layers)
    start = [bias.detach().clone() for bias in _own(layers, "bias")]
    every = max(config.steps // num_measurements, 1)
    rows: list[dict[str, Any]] = []
    losses: list[float] = []
    for step, (loss, batch) in enumerate(_steps(experiment), start=1):
        losses.append(_or_inf(loss))
        if step % every == 0 or step == config.steps:
            norms = _norms(layers, start)
            change = _change_if_put_back(experiment, layers, start, batch) if step == config.steps else math.nan
            since = losses[rows[-1]["step"] if rows else 0 :]
            row = {"step": step, "loss": sum(since) / len(since), "first_loss": losses[0], "peak_loss": max(since)}
            rows.append(row | norms | {"loss_change": change})
    return pd.DataFrame({"net": net_name(config.norm) + FIXED * fixed} | pd.DataFrame(rows).to_dict("list"))


def _steps(experiment: Experiment) -> Iterator[tuple[float, Any]]:
    """Train; yield the loss and the batch of each step after it has been made."""
    for batch in experiment.batches():
        experiment.optimizer.zero_grad()
        loss = experiment.loss_fn(experiment.model, batch)
        loss.backward()
        experiment.optimizer.step()
        yield float(loss.detach()), batch


def _hidden(experiment: Experiment) -> tuple[NetLayer, ...]:
    inputs = next(experiment.batches())[0][:2]
    return hidden_layers(layers_in_order(experiment.model, inputs), needed_for="a bias in front of a normalisation")


def _fix_gamma_and_beta(layers: Sequence[NetLayer]) -> None:
    """Freeze gamma and beta: a parameter that needs no gradient gets none, and the optimizer skips it."""
    for layer in layers:
        own = {id(parameter) for parameter in layer.module.parameters()}
        for parameter in layer.parameters.values():
            parameter.requires_grad_(id(parameter) in own)


def _norms(layers: Sequence[NetLayer], start: Sequence[Tensor]) -> dict[str, float]:
    biases, weights = _joined(_own(layers, "bias")), _joined(_own(layers, "weight"))
    found = {"bias_norm": biases, "displacement": biases - _joined(start), "weight_norm": weights}
    return {name: _or_inf(float(vector.norm())) for name, vector in found.items()}


@torch.no_grad()
def _change_if_put_back(
    experiment: Experiment, layers: Sequence[NetLayer], start: Sequence[Tensor], batch: Any
) -> float:
    """Put the biases back for good: the training is over, and everything else has been measured."""
    with_bias = float(experiment.loss_fn(experiment.model, batch))
    for bias, value in zip(_own(layers, "bias"), start, strict=True):
        bias.copy_(value)
    without = float(experiment.loss_fn(experiment.model, batch))
    return abs(without - with_bias) / abs(with_bias)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts]).clone()


def _or_inf(number: float) -> float:
    return number if math.isfinite(number) else math.inf


def _own(layers: Sequence[NetLayer], name: str) -> list[nn.Parameter]:
    return [layer.parameters[f"{layer.name}.{name}"] for layer in layers]
