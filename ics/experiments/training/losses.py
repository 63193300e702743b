"""The losses that are trained, as `loss_fn(model, batch)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ics.experiments.data.examples import Batch

LossFunction = Callable[[nn.Module, Batch], Tensor]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of a batch, in nats.

    Example:
        >>> inputs, classes = torch.zeros(2, 3), torch.tensor([0, 1])
        >>> cross_entropy(nn.Identity(), (inputs, classes))  # guessing among three classes: ln 3
        tensor(1.0986)
    """
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets)


def sum_squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error, summed over samples and outputs.

    A sum, because the learning rates 1e-6 and 1e-7 that Santurkar et al. 2018 (sec. 2.2) use for deep linear nets would
    move nothing with a mean.
    """
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets, reduction="sum")


LOSSES: Mapping[str, LossFunction] = {
    "cross_entropy": cross_entropy,
    "sum_squared_error": sum_squared_error,
}


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the terms of a loss."""
    return reduce(torch.add, terms.values())
