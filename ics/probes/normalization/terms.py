"""Normalisation modules: x-hat without gamma and beta, and the terms of Theorem 4.1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ics import stats

TERMS = ("output_gradient_squared", "rescaled_gradient_squared", "mean_term", "normalized_term")


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """Mean and biased variance of every channel over the `count` values it has in a batch."""

    count: int
    mean: Tensor
    variance: Tensor


def has_known_formula(module: nn.Module) -> bool:
    """Return whether x-hat can be computed: not for classes that are not torch's, or that replace torch's `forward`."""
    return type(module).forward in _RECOMPUTED


def normalized(module: nn.Module, x: Tensor) -> Tensor:
    """Return x-hat: what a normalisation makes of its input `x` before gamma and beta; see `has_known_formula`.

    The batch's statistics are used where the module used them; nothing of the module is changed.
    """
    return _RECOMPUTED[type(module).forward](module, x)


def is_plain_batchnorm(module: nn.Module) -> bool:
    """Return whether a module computes exactly torch's BatchNorm, as Theorem 4.1 presumes."""
    return type(module).forward is _BatchNorm.forward


def uses_batch_statistics(module: nn.Module) -> bool:
    """Return whether a BatchNorm or InstanceNorm normalises by the batch at hand, not by its running statistics."""
    return module.training or module._buffers.get("running_mean") is None


def batch_statistics(x: Tensor) -> BatchStatistics:
    """Mean and biased variance per channel of (m, C) or (N, C, *spatial), as BatchNorm takes them.

    In float64 (float32 on devices without it). Non-finite values enter, as they enter the normalisation itself.
    """
    mean, variance = stats.backward_sums(x, x, channel_axis=1)[:2]  # x for the gradient: read already, it is free
    return BatchStatistics(values_per_channel(x), mean, variance)


def values_per_channel(x: Tensor) -> int:
    """Return m of Theorem 4.1: how many values a channel of (m, C) or (N, C, *spatial) has."""
    return x.numel() // max(x.shape[1], 1)


def merge_batches(a: BatchStatistics, b: BatchStatistics) -> BatchStatistics:
    """Statistics of the values of two batches together (Chan's formula)."""
    count = a.count + b.count
    part = b.count / count
    delta = b.mean - a.mean
    variance = (1 - part) * a.variance + part * b.variance + delta**2 * part * (1 - part)
    return BatchStatistics(count, a.mean + delta * part, variance)


def theorem_terms(sums: Tensor, *, count: Tensor | float, weight: Tensor | None, eps: Tensor | float) -> Tensor:
    """The terms of Theorem 4.1 of each channel.

    With y the input of the normalisation, x-hat = (y - mu)/sigma, sigma^2 = var + eps, g = dL/d(output) and m values
    per channel:

        ||dL/dy||^2 = gamma^2/sigma^2 (||g||^2 - <1,g>^2/m - (2/m - ||x-hat||^2/m^2) <g,x-hat>^2)

    The paper's last coefficient, 1/m, is the case eps = 0, where ||x-hat||^2 = m. The three parts of the right side
    are returned beside ||g||^2, in the order of `TERMS`.

    Args:
        sums: (6, C), what `ics.stats.backward_sums` measures of y and g.
        count: m, one for all channels or (C,).
        weight: gamma, (C,); None is 1.
        eps: what BatchNorm adds to the variance, one for all channels or (C,).

    Returns:
        (4, C).

    Source: Santurkar et al. 2018, Thm 4.1. Cost: none beside that of the sums.
    """
    _, variance, ones, squared, along = sums[:5]
    squared_sigma = variance + eps
    scale = (1 if weight is None else weight.to(sums.dtype) ** 2) / squared_sigma
    coefficient = (2 - variance / squared_sigma) / count  # ||x-hat||^2 = m variance / (variance + eps)
    normalized = coefficient * along**2 / squared_sigma
    return torch.stack((squared, scale * squared, scale * ones**2 / count, scale * normalized))


def theorem_error(terms: Tensor, measured: Tensor) -> Tensor:
    """How far the two sides of Theorem 4.1 are apart, relative to the measured ||dL/dy||^2; 0 where both are 0.

    Args:
        terms: (4, ...), in the order of `TERMS`.
        measured: (...).
    """
    predicted = terms[1] - terms[2] - terms[3]
    return (predicted - measured).abs() / measured.clamp(min=torch.finfo(measured.dtype).tiny)


def sum_of_squares(gradient: Tensor) -> Tensor:
    """||gradient||^2, summed in float64 (float32 on devices without it)."""
    return stats.norm([gradient]) ** 2


def broadcast_weight(module: nn.Module, x: Tensor) -> Tensor | None:
    """Return gamma in a shape that multiplies tensors like `x`; None where the module has none."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return weight.detach()
    from_the_end = module._get_no_batch_dim() if isinstance(module, _InstanceNorm) else x.ndim - 1
    return weight.detach().view(-1, *(1,) * (from_the_end - 1))


def _batch_norm(module: Any, x: Tensor) -> Tensor:
    if uses_batch_statistics(module):
        return F.batch_norm(x, None, None, training=True, eps=module.eps)
    return F.batch_norm(x, module.running_mean, module.running_var, training=False, eps=module.eps)


def _instance_norm(module: Any, x: Tensor) -> Tensor:
    batched = x if x.ndim > module._get_no_batch_dim() else x.unsqueeze(0)
    if uses_batch_statistics(module):
        result = F.instance_norm(batched, use_input_stats=True, eps=module.eps)
    else:
        mean, var = module.running_mean, module.running_var
        result = F.instance_norm(batched, mean, var, use_input_stats=False, eps=module.eps)
    return result.view(x.shape)


_RECOMPUTED: dict[object, Callable[[Any, Tensor], Tensor]] = {
    _BatchNorm.forward: _batch_norm,
    _InstanceNorm.forward: _instance_norm,
    nn.LayerNorm.forward: lambda module, x: F.layer_norm(x, module.normalized_shape, eps=module.eps),
    nn.GroupNorm.forward: lambda module, x: F.group_norm(x, module.num_groups, eps=module.eps),
    nn.RMSNorm.forward: lambda module, x: F.rms_norm(x, module.normalized_shape, eps=module.eps),
}
