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
    """Mean cross-entropy of a batch, in nats."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets)


def sum_squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error, summed over samples and outputs (SCIENCE 5: with a mean, lr 1e-6 moves nothing)."""
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets, reduction="sum")


LOSSES: Mapping[str, LossFunction] = {
    "cross_entropy": cross_entropy,
    "sum_squared_error": sum_squared_error,
}


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the terms of a loss."""
    return reduce(torch.add, terms.values())
