"""Which axis of a tensor counts its channels, the views that bring it to a fixed place, and an affine map per channel.

Slabs (`as_slabs`) are views of contiguous and of channels_last tensors alike, which is what makes the statistics cheap:
reducing over outer and inner reads memory in order, while rows of channels would first have to be copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ics.errors import UsageError

Affine = tuple[Tensor, Tensor]
"""Shift and scale of each channel, each (C,): what is measured is (x - shift) * scale."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# On a CPU the temporaries of one block (512 KiB each in float32) stay in the second-level cache. Elsewhere launches
# are what costs, and 2^24 is the largest count per channel that a float32 sum of ones still gives exactly.
_BLOCK_ON_CPU = 2**17
_BLOCK_ELSEWHERE = 2**24
_NARROWEST = 64  # values of a channel read at a time; fewer would use a fraction of each line of the cache


def default_channel_axis(x: Tensor) -> int:
    """Return the axis that counts channels when nothing but the shape is known: 1 for ndim 2, 4 and 5, else -1.

    Three axes are read as (batch, time, channel), as attention and recurrent layers have them; if the tensor comes
    from a one-dimensional convolution, pass 1 instead.

    Example:
        >>> default_channel_axis(torch.zeros(8, 3, 32, 32)), default_channel_axis(torch.zeros(8, 20, 64))
        (1, -1)
    """
    return 1 if x.ndim in (2, 4, 5) else -1


def as_channels(x: Tensor, *, channel_axis: int) -> Tensor:
    """Return the values as rows of channels, shape (m, C); a view where the memory layout allows one, else a copy.

    Args:
        x: floating tensor of any shape; a 0-dimensional one is one value of one channel.
        channel_axis: the axis that counts channels; may be negative.

    Raises:
        UsageError: the tensor is not real floating, or has no such axis.

    Example:
        >>> as_channels(torch.zeros(8, 3, 4, 5), channel_axis=1).shape
        torch.Size([160, 3])
    """
    values, axis = checked(x, channel_axis)
    rows = values.movedim(axis, -1)
    return rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])


def as_slabs(x: Tensor, *, channel_axis: int) -> Tensor:
    """Return the values as slabs, shape (outer, C, inner): the axes before and after the channel axis flattened.

    A channel's m = outer * inner values are `slabs[:, c, :]`. Arguments, errors and copying as in `as_channels`.

    Example:
        >>> as_slabs(torch.zeros(8, 3, 4, 5), channel_axis=1).shape, as_slabs(torch.zeros(8, 3), channel_axis=-1).shape
        (torch.Size([8, 3, 20]), torch.Size([8, 3, 1]))
    """
    values, axis = checked(x, channel_axis)
    outer, inner = math.prod(values.shape[:axis]), math.prod(values.shape[axis + 1 :])
    return values.reshape(outer, values.shape[axis], inner)


def blocks(slabs: Tensor) -> Iterator[Tensor]:
    """Yield slabs of all channels, in at least float32, that together hold every value once and are small each."""
    _, channels, inner = slabs.shape
    size = _BLOCK_ON_CPU if slabs.device.type == "cpu" else _BLOCK_ELSEWHERE
    rows, width = max(1, size // max(1, channels * inner)), max(_NARROWEST, size // max(1, channels))
    for part in slabs.split(rows):
        for block in part.split(width, dim=2):
            yield block.to(working_dtype(block))


def working_dtype(x: Tensor) -> torch.dtype:
    """Return the type that values of `x` are computed in: float64 for float64, float32 for all others."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """Return the type that results are combined in: float64, and float32 on mps, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def require_floating(x: Tensor) -> Tensor:
    """Return `x` without its autograd history; raises `UsageError` unless it is real floating."""
    if x.dtype not in DTYPES:
        name = str(x.dtype).removeprefix("torch.")
        raise UsageError(
            "statistics need a floating point tensor (float32, float64, bfloat16 or float16), "
            f"but one of {name} came; type x.float()"
        )
    return x.detach().resolve_neg()


def checked(x: Tensor, channel_axis: int) -> tuple[Tensor, int]:
    """Return `x` without its autograd history, of at least one axis, and the axis counted from 0; or `UsageError`."""
    values = require_floating(x)
    values = values.reshape(1) if values.ndim == 0 else values
    return values, axis_of(values.shape, channel_axis)


def axis_of(shape: Sequence[int], channel_axis: int) -> int:
    """Return the axis counted from 0, of a shape where no axes are read as one; or `UsageError`."""
    ndim = max(len(shape), 1)
    if not -ndim <= channel_axis < ndim:
        raise UsageError(
            f"channel_axis must name an axis of the tensor, {-ndim} to {ndim - 1} for shape {tuple(shape) or (1,)}, "
            f"but {channel_axis} came; type channel_axis={1 if ndim in (2, 4, 5) else -1}"
        )
    return channel_axis % ndim


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
