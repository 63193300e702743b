"""A shift and a scale per channel, applied to a tensor as it is measured: BatchNorm's x-hat, from its input."""

from __future__ import annotations

from torch import Tensor

from ics.errors import UsageError
from ics.stats.layout import checked, require_floating, working_dtype

Affine = tuple[Tensor, Tensor]
"""Shift and scale, each (C,)."""


def transformed(x: Tensor, axis: int, affine: Affine) -> Tensor:
    """Return (x - shift) * scale per channel as a new tensor, the difference and the product each rounded once.

    Computed in at least float32, into which shift and scale are rounded too; the memory layout is that of `x`.
    """
    dtype, shape = working_dtype(x), [1] * x.ndim
    shape[axis] = -1
    shift, scale = (part.detach().to(x.device, dtype).reshape(shape) for part in affine)
    return require_floating(x).to(dtype).sub(shift).mul_(scale)


def check_affine(x: Tensor, channel_axis: int, affine: Affine) -> None:
    """Raise `UsageError` unless there are a shift and a scale for each channel."""
    values, axis = checked(x, channel_axis)
    channels = values.shape[axis]
    for name, part in zip(("shift", "scale"), affine, strict=True):
        if part.shape != (channels,):
            raise UsageError(
                f"affine needs a {name} per channel, shape ({channels},), but {tuple(part.shape)} came; "
                f"type affine=(shift, scale) with tensors of shape ({channels},)"
            )
