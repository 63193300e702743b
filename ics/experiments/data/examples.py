"""Data sets as tensors in memory, and the batches of a training.

Images stay `uint8` and are normalised per channel, batch by batch: CIFAR-10 takes 184 MB instead of 737 MB, and at
these sizes indexing a tensor is faster than a loader with workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ics.errors import UsageError

Batch = tuple[Tensor, Tensor]
Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`, e.g. `("decoding images", 1000, 60000)` or `("training", 12, 400)`."""

_STATISTICS_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs (N, ...), `uint8` or floating, and targets: (N,) class numbers or (N, outputs) numbers."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> Examples:
        """Return the examples on `device`."""
        return Examples(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True, slots=True)
class Data:
    """A data set.

    Attributes:
        train: examples to train on.
        test: examples held out; None where there are none.
        classes: names of the classes, in the order of their numbers; empty for regression.
        num_outputs: number of classes or of regression outputs.
        mean: per-channel mean of the training inputs, shaped to broadcast over one input.
        std: per-channel standard deviation, likewise.
        dtype: floating type of the batches.
    """

    train: Examples
    test: Examples | None
    classes: tuple[str, ...]
    num_outputs: int
    mean: Tensor
    std: Tensor
    dtype: torch.dtype = torch.float32

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Data:
        """Return the data on `device`, to be handed out as `dtype`."""
        return Data(
            train=self.train.to(device),
            test=None if self.test is None else self.test.to(device),
            classes=self.classes,
            num_outputs=self.num_outputs,
            mean=self.mean.to(device, dtype),
            std=self.std.to(device, dtype),
            dtype=dtype,
        )

    def batch(self, examples: Examples, chosen: Tensor | slice) -> Batch:
        """Return the chosen examples, inputs normalised per channel."""
        inputs, targets = examples.inputs[chosen], examples.targets[chosen]
        if targets.is_floating_point():
            targets = targets.to(self.dtype)
        return (inputs.to(self.dtype) - self.mean) / self.std, targets

    def batches(self, *, batch_size: int | None, num_batches: int, seed: int) -> Iterator[Batch]:
        """Yield `num_batches` batches of training examples.

        Every epoch uses a new permutation and drops the remainder at its end. The order comes from a generator of its
        own, so a model that draws random numbers does not change it.

        Args:
            batch_size: examples per batch; None yields all of them, in order, every time.
            num_batches: how many to yield, over as many epochs as it takes.
            seed: decides the order.

        Raises:
            UsageError: there are fewer training examples than a batch holds.
        """
        size = len(self.train)
        if batch_size is None:
            everything = self.batch(self.train, slice(None))
            for _ in range(num_batches):
                yield everything
            return
        if batch_size > size:
            raise UsageError(
                f"batch_size is {batch_size}, but there are {size} training examples; type batch_size={size}"
            )
        generator = torch.Generator().manual_seed(seed)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(num_batches):
            # A smaller last batch would have noisier gradients, and statistics in BatchNorm, than all the others.
            if len(order) < batch_size:
                order = torch.randperm(size, generator=generator)
            chosen, order = order[:batch_size], order[batch_size:]
            yield self.batch(self.train, chosen.to(self.train.inputs.device))


def image_data(*, train: Examples, test: Examples | None, classes: tuple[str, ...], limit: int | None = None) -> Data:
    """Return `uint8` images (N, channels, height, width) as data, with statistics of the training images.

    Args:
        limit: keep only the first `limit` images of each class, in training and in test.
    """
    if limit is not None:
        train = _first_of_each_class(train, limit=limit)
        test = None if test is None else _first_of_each_class(test, limit=limit)
    mean, std = channel_statistics(train.inputs)
    return Data(train, test if test is not None and len(test) else None, classes, len(classes), mean, std)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel of `uint8` images, each of shape (channels, 1, 1).

    sqrt(E[x^2] - E[x]^2) is safe here and only here: sums of squares of `uint8` values are whole numbers below 2^53,
    hence exact in float64. A channel that is constant gets standard deviation 1.
    """
    assert images.dtype == torch.uint8
    sums = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for chunk in images.split(_STATISTICS_CHUNK):
        values = chunk.to(torch.float64)
        sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
    count = images.shape[0] * images.shape[2] * images.shape[3]
    mean, square = sums / count
    variance = square - mean**2
    std = torch.where(variance > 0, variance, 1).sqrt()
    return mean.view(-1, 1, 1), std.view(-1, 1, 1)


def _first_of_each_class(examples: Examples, *, limit: int) -> Examples:
    chosen = [torch.nonzero(examples.targets == number)[:limit, 0] for number in examples.targets.unique()]
    index = torch.cat(chosen).sort().values if chosen else torch.empty(0, dtype=torch.int64)
    return Examples(examples.inputs[index], examples.targets[index])
