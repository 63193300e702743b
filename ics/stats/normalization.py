"""What a normalisation per channel did to its input and to the gradient, as the sums that Theorem 4.1 is made of."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from ics.errors import UsageError
from ics.stats.backends import fused_way
from ics.stats.layout import accumulator_dtype, as_slabs, blocks, checked

SUMS = ("mean", "variance", "gradient", "gradient_squared", "gradient_along", "input_gradient_squared")


@torch.no_grad()
def backward_sums(x: Tensor, gradient: Tensor, input_gradient: Tensor | None = None, *, channel_axis: int) -> Tensor:
    """Measure the sums per channel over the input of a normalisation and the gradients of its output and its input.

    With x the input, g = dL/d(output), d = dL/d(input), and m values per channel, the rows, in the order of `SUMS`:

        mean = sum(x)/m, variance = sum((x - mean)^2)/m, sum(g), sum(g^2), sum(g (x - mean)), sum(d^2)

    Values that are not finite enter, as they enter the normalisation itself: their channel's mean and variance are not
    finite either. Accumulated in float64 (float32 on mps); no synchronisation away from the CPU. The order of the
    additions depends on shapes and memory layouts alone. Cost: one read of the tensors by a kernel, for float32,
    bfloat16 and float16 on a CPU; else about eight.

    Args:
        x: real floating tensor of any shape; the variance is the biased one.
        gradient: of the same shape.
        input_gradient: of the same shape; without it the last row is NaN.
        channel_axis: the axis that counts channels; may be negative.

    Returns:
        (6, C); NaN where a channel has no values.

    Raises:
        UsageError: a tensor is not real floating, or has no such axis, or their shapes differ.

    Source of the sums' use: Santurkar et al. 2018, Thm 4.1.

    Example:
        >>> x, g = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [2.0]])
        >>> dict(zip(SUMS, backward_sums(x, g, channel_axis=1).squeeze(1).tolist()))["gradient_along"]
        1.0
    """
    for name, other in (("gradient", gradient), ("input_gradient", input_gradient)):
        if other is not None and other.shape != x.shape:
            raise UsageError(
                f"{name} must have the shape of the input, {tuple(x.shape)}, but {tuple(other.shape)} came; "
                f"type {name}.expand_as(x) if it is to be broadcast"
            )
    found = _by_kernel(x, gradient, input_gradient, channel_axis) if x.is_cpu else None
    return _eager(x, gradient, input_gradient, channel_axis) if found is None else found


def _eager(x: Tensor, gradient: Tensor, input_gradient: Tensor | None, channel_axis: int) -> Tensor:
    """Separate operations on one block of values after another; the kernel's way to sum."""
    values, axis = checked(x, channel_axis)
    wide, slabs = accumulator_dtype(x.device), as_slabs(values, channel_axis=axis)
    m, channels = slabs.shape[0] * slabs.shape[2], slabs.shape[1]
    if m == 0:
        return torch.full((len(SUMS), channels), torch.nan, dtype=wide, device=x.device)
    first = slabs[0, :, 0].to(wide)
    shift = torch.where(first.isfinite(), first, 0)
    given = (gradient, gradient if input_gradient is None else input_gradient)
    others = [as_slabs(checked(each, axis)[0], channel_axis=axis) for each in given]
    total = torch.zeros((len(SUMS), channels), dtype=wide, device=x.device)
    for parts in zip(*map(blocks, (slabs, *others)), strict=True):
        c, g, d = (part.to(wide) for part in parts)
        c = c - shift[:, None]
        total += torch.stack([product.sum((0, 2)) for product in (c, c * c, g, g * g, g * c, d * d)])
    offset, squares, ones, squared, along, back = total
    offset = offset / m
    variance = (squares / m - offset**2).clamp(min=0)
    back = torch.full_like(back, torch.nan) if input_gradient is None else back
    return torch.stack((shift + offset, variance, ones, squared, along - offset * ones, back))


def _by_kernel(x: Tensor, gradient: Tensor, input_gradient: Tensor | None, channel_axis: int) -> Tensor | None:
    """Return the sums; None where there is no kernel, or it does not take the tensors."""
    jobs: Any = getattr(fused_way("cpu"), "normalization", None)
    if jobs is None:
        return None
    from ics.stats.cpu.backend import KINDS, plan_of
    from ics.stats.cpu.normalization import FIELDS

    given = (x, gradient, gradient if input_gradient is None else input_gradient)
    kinds = [KINDS[each.dtype] for each in given if _is_taken(each) and each.dtype in KINDS]
    if len(kinds) < len(given):
        return None
    plan = plan_of(x.shape, x.stride(), channel_axis, 0)
    if plan is None:
        x = x.contiguous()
        plan = plan_of(x.shape, x.stride(), channel_axis, 0)
    if plan is None:  # no values
        return None
    outer, channels, inner = plan.memory
    gradient = _like(gradient, x)
    back = None if input_gradient is None else _like(input_gradient, x)
    sums = torch.empty((len(SUMS), channels), dtype=torch.float64, device="cpu")
    scratch = torch.empty(plan.parts * sums.numel(), dtype=torch.float64, device="cpu")
    request = (ctypes.c_int64 * FIELDS)(
        *(x.data_ptr(), gradient.data_ptr(), 0 if back is None else back.data_ptr()),
        *kinds,
        *(outer, channels, inner),
        *(plan.parts, 0, scratch.data_ptr(), sums.data_ptr()),
    )
    jobs.run(request, plan.parts)
    return sums


def _is_taken(tensor: Tensor) -> bool:
    plain = tensor.is_cpu and tensor.layout is torch.strided and not tensor.is_neg()
    return plain and tensor.data_ptr() != 0  # of a wrapper (DTensor), which hides where its values are, it is 0


def _like(tensor: Tensor, x: Tensor) -> Tensor:
    """Return a tensor whose values lie in memory in the order of those of `x`, which has no gaps."""
    if tensor.stride() == x.stride() or (tensor.is_contiguous() and x.is_contiguous()):
        return tensor
    return torch.empty_like(x, dtype=tensor.dtype).copy_(tensor)
