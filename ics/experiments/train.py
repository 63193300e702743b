"""Training with a recorder attached, as anyone would write it: `fit` is the worked example of how `ics` is used."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ics
from ics.errors import UsageError
from ics.experiments.config import RunConfig
from ics.experiments.data import Batch, Data, Progress
from ics.experiments.datasets import load_data
from ics.experiments.loading import load_model
from ics.recording.presets import merged_options, preset_named

_TEST_BATCH = 1000


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of a batch, in nats."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets)


def sum_squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error, summed over samples and outputs (SCIENCE 5: with a mean, lr 1e-6 moves nothing)."""
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets, reduction="sum")


LOSSES: Mapping[str, Callable[[nn.Module, Batch], Tensor]] = {
    "cross_entropy": cross_entropy,
    "sum_squared_error": sum_squared_error,
}


@dataclass(frozen=True, slots=True)
class Experiment:
    """What a configuration stands for, ready to train."""

    config: RunConfig
    data: Data
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: Callable[[nn.Module, Batch], Tensor]

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of the whole training."""
        config = self.config
        return self.data.batches(batch_size=config.batch_size, num_batches=config.steps, seed=config.seed)


def train(
    config: RunConfig,
    *,
    to: str | Path,
    overwrite: bool = False,
    download: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train what `config` describes, with its instruments attached, and return the folder of the run.

    Args:
        config: the whole configuration; stored in run.json.
        to: folder of the run.
        overwrite: replace a run that is already there.
        download: fetch a torchvision data set that is not there.
        progress: called as `progress("decoding images" | "training", done, total)`.

    Raises:
        UsageError: the data or the model cannot be had, do not fit each other, or the run exists.

    Example:
        >>> from ics.experiments import recipe, train
        >>> path = train(recipe("digits-mlp", norm="batch", steps=100), to="runs/digits-bn-0")  # doctest: +SKIP
        >>> ics.open_run(path).table("steps", columns=["step", "loss"])  # doctest: +SKIP
    """
    experiment = prepare(config, download=download, progress=progress)
    recorder = ics.Recorder(
        experiment.model,
        experiment.loss_fn,
        to=to,
        optimizer=experiment.optimizer,
        instruments=config.schedules(),
        options=_options(config),
        budget=config.budget,
        layers=config.layers,
        config=config.as_dict(),
        seed=config.seed,
        overwrite=overwrite,
    )
    with recorder, cpu_threads(config.num_threads):
        fit(experiment, recorder, progress=progress)
    return Path(to)


def _options(config: RunConfig) -> dict[str, dict[str, Any]]:
    own = {"gradient_line": {"etas": config.etas()}} if config.learning_rate else {}
    return own if config.preset is None else merged_options(preset_named(config.preset).options, own)


def fit(experiment: Experiment, recorder: ics.Recorder, *, progress: Progress | None = None) -> None:
    """Train for the configured number of steps.

    The loss that is trained, logged and measured is the data loss; weight decay is the optimizer's business.
    """
    model, optimizer, config = experiment.model, experiment.optimizer, experiment.config
    for number, batch in enumerate(experiment.batches()):
        # Before the block: inside it, the passes over the test set would be measured along with training's.
        results = evaluate(experiment, step=number)
        with recorder.step(batch) as step:
            optimizer.zero_grad()
            loss = experiment.loss_fn(model, batch)
            loss.backward()
            optimizer.step()
            step.log(loss=loss, **results)
        if progress is not None:
            progress("training", number + 1, config.steps)


def evaluate(experiment: Experiment, *, step: int) -> dict[str, Tensor]:
    """Return `{"test_accuracy": ...}` of W(step) if it is due at this step (or the last), else nothing."""
    config, data = experiment.config, experiment.data
    if data.test is None or not data.classes or config.evaluate_every == 0:
        return {}
    if step % config.evaluate_every != 0 and step != config.steps - 1:
        return {}
    return {"test_accuracy": accuracy(experiment.model, data)}


def accuracy(model: nn.Module, data: Data) -> Tensor:
    """Fraction of the test examples that the model, in eval mode, puts into their class; stays on the device."""
    assert data.test is not None
    with torch.no_grad(), evaluating(model):
        correct = [
            (model(inputs).argmax(dim=1) == targets).sum()
            for first in range(0, len(data.test), _TEST_BATCH)
            for inputs, targets in [data.batch(data.test, slice(first, first + _TEST_BATCH))]
        ]
    return torch.stack(correct).sum() / len(data.test)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode, and every module back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Let torch use `number` CPU threads, and as many as before afterwards; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
        init=config.init,
        hidden=config.hidden,
        activation=config.activation,
    ).to(device, dtype)
    check_fit(config, data, model)
    return Experiment(config, data, model, make_optimizer(config, model), LOSSES[config.loss])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (on every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def find_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the first CUDA device if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"there is no device {name!r} here ({reason}); type device='cpu' or device='auto'") from error
    return device


def make_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer; weight decay is its own, so the loss stays the data loss alone."""
    parameters = list(model.parameters())
    if not parameters:
        raise UsageError(f"{config.model} has no parameters, so there is nothing to train")
    settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **settings)
    return (torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW)(parameters, **settings)


def check_fit(config: RunConfig, data: Data, model: nn.Module) -> None:
    """Raise a `UsageError` where model, data and loss do not fit, by one pass that changes nothing."""
    is_regression = not data.classes
    if is_regression != (config.loss == "sum_squared_error"):
        right = "sum_squared_error" if is_regression else "cross_entropy"
        raise UsageError(f"{config.data} does not go with loss={config.loss!r}; type loss={right!r}")
    inputs = next(data.batches(batch_size=config.batch_size, num_batches=1, seed=0))[0][:2]
    try:
        with torch.no_grad(), evaluating(model), torch.random.fork_rng():
            outputs = model(inputs)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{config.model} cannot take inputs of shape {tuple(inputs.shape)}: {reason}") from error
    if not isinstance(outputs, Tensor) or tuple(outputs.shape) != (len(inputs), data.num_outputs):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UsageError(
            f"{config.model} should return ({len(inputs)}, {data.num_outputs}) outputs for {config.data}, got {got}"
        )
