"""All statistics of a tensor by separate torch operations: right on every device, type and memory layout."""

from __future__ import annotations

from torch import Tensor

from ics.stats.histogram import histogram as count_buckets
from ics.stats.layout import require_floating, working_dtype
from ics.stats.moments import channel_moments
from ics.stats.packed import pack

Affine = tuple[Tensor, Tensor]


def reduce_eager(
    x: Tensor, axis: int, saturation: tuple[float, float] | None, affine: Affine | None, max_values: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return the packed moments, and the histogram unless `max_values` is 0; arguments as of `ics.stats.reduce`."""
    values = require_floating(x) if affine is None else transformed(x, axis, affine)
    moments = pack(channel_moments(values, channel_axis=axis, saturation=saturation))
    return moments, None if max_values == 0 else count_buckets(values, max_values=max_values)


def transformed(x: Tensor, axis: int, affine: Affine) -> Tensor:
    """Return (x - shift) * scale per channel as a new tensor, the difference and the product each rounded once.

    Computed in at least float32, into which shift and scale are rounded too; the memory layout is that of `x`.
    """
    dtype, shape = working_dtype(x), [1] * x.ndim
    shape[axis] = -1
    shift, scale = (part.detach().to(x.device, dtype).reshape(shape) for part in affine)
    return require_floating(x).to(dtype).sub(shift).mul_(scale)
