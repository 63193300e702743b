"""A configuration made ready to train: data, model, loss and optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ics.errors import UsageError
from ics.experiments.data.datasets import load_data
from ics.experiments.data.examples import Batch, Data, Progress
from ics.experiments.nets.layers import NetLayer, hidden_layers, layers_in_order
from ics.experiments.nets.loading import load_model
from ics.experiments.training.config import RunConfig
from ics.experiments.training.evaluation import evaluate, evaluating
from ics.experiments.training.losses import LOSSES, LossFunction
from ics.experiments.training.machine import draws_undone, find_device, seed_everything
from ics.experiments.training.one_layer import OneLayerPerStep
from ics.experiments.training.optimizers import build_optimizer
from ics.experiments.training.penalty import PenalisedLoss
from ics.experiments.training.whitening import Whitening

AfterStep = Callable[[Batch], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Experiment:
    """A configuration, ready to train.

    Attributes:
        config: the configuration.
        data: training and test examples, on the device.
        model: freshly initialised.
        optimizer: of its parameters.
        loss_fn: the loss that is trained, a penalty included; weight decay is the optimizer's business.
        variant: what a variant of training does after each step; None in ordinary training.
    """

    config: RunConfig
    data: Data
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: LossFunction
    variant: AfterStep | None = None

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of the whole training."""
        config = self.config
        return self.data.batches(batch_size=config.batch_size, num_batches=config.steps, seed=config.seed)

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss that is trained by name: `loss`, the data loss, and `gaussian_penalty`."""
        if isinstance(self.loss_fn, PenalisedLoss):
            return self.loss_fn.terms(self.model, batch)
        return {"loss": self.loss_fn(self.model, batch)}

    def after_step(self, batch: Batch) -> dict[str, Tensor]:
        """Do what a variant of training does after the optimizer's step, and return the columns it logs."""
        return {} if self.variant is None else self.variant(batch)

    def evaluate(self, step: int) -> dict[str, Tensor]:
        """Return the columns of `ics.experiments.training.evaluation` of W(step) where they are due, else nothing."""
        config = self.config
        due = config.evaluate_every and (step % config.evaluate_every == 0 or step == config.steps - 1)
        if not due:
            return {}
        return evaluate(self.model, self.data, loss=config.loss, batch_size=config.batch_size)


def prepare(config: RunConfig, *, download: bool = False, progress: Progress | None = None) -> Experiment:
    """Load the data, build model and optimizer, and seed every random generator; two calls give equal experiments."""
    device, dtype = find_device(config.device), getattr(torch, config.dtype)
    data = load_data(config, download=download, progress=progress).to(device, dtype)
    seed_everything(config.seed)
    model = load_model(
        config.model,
        input_shape=data.input_shape,
        num_outputs=data.num_outputs,
        norm=config.norm,
        bias=config.bias,
        dropout=config.dropout,
        init=config.init,
        hidden=config.hidden,
        activation=config.activation,
    ).to(device, dtype)
    check_fit(config, data, model)
    optimizer = make_optimizer(config, model)
    loss_fn, variant = _variants(config, data, model, optimizer)
    return Experiment(config, data, model, optimizer, loss_fn, variant)


def make_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer; weight decay is its own, so the loss stays the data loss alone."""
    parameters = list(model.parameters())
    if not parameters:
        raise UsageError(f"{config.model} has no parameters, so there is nothing to train")
    return build_optimizer(
        config.optimizer,
        parameters,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        settings=config.optimizer_settings,
    )


def check_fit(config: RunConfig, data: Data, model: nn.Module) -> None:
    """Raise a `UsageError` where model, data and loss do not fit, by one pass that changes nothing."""
    is_regression = not data.classes
    if is_regression != (config.loss == "sum_squared_error"):
        right = "sum_squared_error" if is_regression else "cross_entropy"
        raise UsageError(f"{config.data} does not go with loss={config.loss!r}; type loss={right!r}")
    inputs = _first_inputs(config, data)
    try:
        with torch.no_grad(), evaluating(model), draws_undone(inputs.device):
            outputs = model(inputs)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{config.model} cannot take inputs of shape {tuple(inputs.shape)}: {reason}") from error
    if not isinstance(outputs, Tensor) or tuple(outputs.shape) != (len(inputs), data.num_outputs):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UsageError(
            f"{config.model} should return ({len(inputs)}, {data.num_outputs}) outputs for {config.data}, got {got}"
        )


def _variants(
    config: RunConfig, data: Data, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[LossFunction, AfterStep | None]:
    """Return the loss that is trained and what is done after each step, as the configuration's variants have it."""
    loss_fn: LossFunction = LOSSES[config.loss]
    variant: AfterStep | None = None
    if not (config.gaussian_penalty or config.whiten_after_step or config.one_layer_per_step):
        return loss_fn, variant
    layers = layers_in_order(model, _first_inputs(config, data))
    if config.one_layer_per_step is not None:
        mode = cast(Literal["update", "sign"], config.one_layer_per_step)
        variant = OneLayerPerStep(optimizer, layers=layers, mode=mode)
    if config.whiten_after_step:  # before the penalty puts its hooks on the model, of which this makes a twin
        variant = _whitening(config, data, model, optimizer, layers)
    if config.gaussian_penalty:
        hidden = hidden_layers(layers, needed_for="gaussian_penalty")
        loss_fn = PenalisedLoss(loss_fn, layers=hidden, strength=config.gaussian_penalty)
    return loss_fn, variant


def _whitening(
    config: RunConfig,
    data: Data,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    layers: tuple[NetLayer, ...],
) -> Whitening:
    """Standardise on the first batch before training, so that the first step is charged only with its own changes."""
    hidden = hidden_layers(layers, needed_for="whiten_after_step")
    whitening = Whitening(model, layers=hidden, loss_fn=LOSSES[config.loss], optimizer=optimizer)
    first = next(data.batches(batch_size=config.batch_size, num_batches=1, seed=config.seed))
    with draws_undone(first[0].device):
        whitening.standardise(first)
    return whitening


def _first_inputs(config: RunConfig, data: Data) -> Tensor:
    return next(data.batches(batch_size=config.batch_size, num_batches=1, seed=0))[0][:2]
