"""The loss and accuracy of a net on test and training examples, between two steps.

At the steps that `RunConfig.evaluate_every` names, and at the last, the table `steps` gets the columns

    test_loss, test_accuracy      eval mode: normalisations use their running averages, dropout is off
    train_loss, train_accuracy    the same on `NUM_TRAIN_EXAMPLES` training examples, evenly spaced and always the same
    test_loss_batch_statistics, test_accuracy_batch_statistics
                                  the same as the first two, but normalisations do as in training and use the
                                  statistics of the batch (with noise, if they have any), in batches of about the
                                  training's size; only for nets that keep running averages

All are of W(t), before the step, and of the data loss alone. A loss that is a mean or a sum over samples is the mean or
the sum over all examples. Accuracies exist for classes only. Evaluating changes neither the net nor the random numbers
of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ics.errors import UsageError
from ics.experiments.data.examples import Data, Examples
from ics.experiments.training.losses import LOSSES
from ics.experiments.training.machine import draws_undone

NUM_TRAIN_EXAMPLES = 2000
_CHUNK = 1000


def evaluate(model: nn.Module, data: Data, *, loss: str, batch_size: int | None) -> dict[str, Tensor]:
    """Return the columns that this module names, on the device.

    Args:
        model: left as it is: modes, buffers, random state.
        data: without test examples there are no columns `test_...`.
        loss: a name in `LOSSES`.
        batch_size: of the training; None is all examples.

    Cost: a forward pass of the test set, a second one where there are running averages, and one of `NUM_TRAIN_EXAMPLES`
    examples.
    """
    found: dict[str, Tensor] = {}
    with torch.no_grad(), evaluating(model), draws_undone(data.mean.device):
        if data.test is not None:
            found |= _measure("test_{}", model, data, data.test, loss=loss, chosen=_chunks(len(data.test)))
        if data.test is not None and _keep_averages(model):
            batches = _mixed_batches(len(data.test), batch_size)
            with batch_statistics(model):
                found |= _measure("test_{}_batch_statistics", model, data, data.test, loss=loss, chosen=batches)
        found |= _measure("train_{}", model, data, data.train, loss=loss, chosen=_spaced(len(data.train)))
    return found


def accuracy(model: nn.Module, data: Data) -> Tensor:
    """Fraction of the test examples that the model classifies correctly in eval mode; stays on the device."""
    if data.test is None or not data.classes:
        raise UsageError("accuracy expects test examples with classes, got data without; type evaluate(...)")
    with torch.no_grad(), evaluating(model):
        return _correct(model, data, data.test, _chunks(len(data.test)))


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
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let normalisations with running averages use the statistics of the batch, and leave the averages as they were."""
    modules = [module for module in model.modules() if _averages(module)]
    modes = [module.training for module in modules]
    buffers = {buffer: buffer.clone() for module in modules for buffer in module.buffers(recurse=False)}
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


def _averages(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_mean", None), Tensor)


def _keep_averages(model: nn.Module) -> bool:
    return any(map(_averages, model.modules()))


def _measure(
    column: str, model: nn.Module, data: Data, examples: Examples, *, loss: str, chosen: Sequence[slice]
) -> dict[str, Tensor]:
    """Loss and accuracy of all chosen examples together, from one pass: means are weighted by their numbers."""
    losses, sizes, hits = [], [], []
    for each in chosen:
        inputs, targets = data.batch(examples, each)
        outputs = model(inputs)
        weight = 1 if loss == "sum_squared_error" else len(targets)
        losses.append(LOSSES[loss](_Answered(outputs), (inputs, targets)) * weight)
        sizes.append(weight)
        if data.classes:
            hits.append(outputs.argmax(dim=1) == targets)
    total = torch.stack(losses).sum()
    found = {column.format("loss"): total if loss == "sum_squared_error" else total / sum(sizes)}
    if hits:
        found[column.format("accuracy")] = _fraction(hits)
    return found


class _Answered(nn.Module):
    """A model whose outputs are known, so that a loss does not pass through the net again."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, inputs: Tensor) -> Tensor:
        return self._outputs


def _correct(model: nn.Module, data: Data, examples: Examples, chosen: Sequence[slice]) -> Tensor:
    return _fraction(
        [model(inputs).argmax(dim=1) == targets for each in chosen for inputs, targets in [data.batch(examples, each)]]
    )


def _fraction(hits: Sequence[Tensor]) -> Tensor:
    together = torch.cat(tuple(hits))
    return together.sum() / len(together)


def _chunks(number: int) -> list[slice]:
    return [slice(first, first + _CHUNK) for first in range(0, number, _CHUNK)]


def _spaced(number: int) -> list[slice]:
    """Evenly spaced, because examples may be sorted by class; in chunks of at most `_CHUNK`."""
    stride = -(-number // NUM_TRAIN_EXAMPLES)
    return [slice(first, min(first + stride * _CHUNK, number), stride) for first in range(0, number, stride * _CHUNK)]


def _mixed_batches(number: int, batch_size: int | None) -> list[slice]:
    """All examples in batches of about `batch_size`, each with every n-th, because examples may be sorted by class."""
    num_batches = 1 if batch_size is None else max(1, round(number / batch_size))
    return [slice(first, number, num_batches) for first in range(num_batches)]
