"""The one call that measures a tensor: packed moments per channel and a histogram, by the fastest way there is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ics.errors import UsageError
from ics.stats.backends import fused_way
from ics.stats.histogram import histogram as count_buckets
from ics.stats.layout import Affine, check_affine, checked, require_floating, transformed
from ics.stats.moments import channel_moments
from ics.stats.packed import PACKED, pack


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """What is kept of a tensor.

    Attributes:
        moments: (rows, C), float64 (float32 on mps); rows in the order of `PACKED`, see `unpack`.
        histogram: (NUM_BUCKETS,) int64, as `histogram` counts; None where it was not asked for.
    """

    moments: Tensor
    histogram: Tensor | None


def reduce(
    x: Tensor,
    *,
    channel_axis: int,
    saturation: tuple[float, float] | None = None,
    affine: Affine | None = None,
    histogram: bool = True,
    max_values: int | None = 65_536,
) -> Reduced:
    """Measure moments 1 to 4, extrema and counts of each channel, and the histogram of all values, in one go.

    Formula, accuracy and source: those of `channel_moments` and `histogram`. Shapes: any tensor with the axis; results
    (rows, C) and (NUM_BUCKETS,), on the device of the tensor. No gradient, no random numbers, no host synchronisation
    away from the CPU. Cost: one read of the tensor where a fused backend stands in (`backend`), else about ten.

    Args:
        x: float32, float64, bfloat16 or float16 tensor, of any memory layout; may be empty.
        channel_axis: the axis that counts channels; may be negative.
        saturation: asymptotes (low, high) as for `channel_moments`; None makes the row of `saturated_count` NaN.
        affine: (shift, scale), each (C,): measures (x - shift) * scale per channel in place of x, in at least float32,
            difference and product each rounded once. The x-hat of BatchNorm from its input, without making it.
        histogram: whether to count the histogram.
        max_values: a larger tensor's histogram is of a sample at a fixed stride, as `histogram` takes it.

    Raises:
        UsageError: the tensor is not real floating, or has no such axis, or shift and scale are not one per channel.

    Example:
        >>> reduced = reduce(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), channel_axis=1)
        >>> dict(zip(("count", "mean", "m2"), reduced.moments[:3].tolist()))
        {'count': [2.0, 2.0], 'mean': [2.0, 0.0], 'm2': [1.0, 0.0]}
        >>> int(reduced.histogram.sum())
        4
    """
    if max_values is not None and max_values < 1:
        raise UsageError(
            f"max_values must be at least 1, or None for all, but {max_values} came; "
            "type histogram=False for no histogram"
        )
    # The ways to measure take one number for both: 0 is no histogram, None is all values.
    limit = max_values if histogram else 0
    if affine is not None:
        check_affine(x, channel_axis, affine)
    fused = fused_way("cpu" if x.is_cpu else x.device.type)
    found = None if fused is None else fused(x, channel_axis, saturation, affine, limit)
    if found is None:
        with torch.no_grad():
            values, axis = checked(x, channel_axis)
            found = _reduce_eagerly(values, axis, saturation, affine, limit)
    return Reduced(*found)


def _reduce_eagerly(
    x: Tensor, axis: int, saturation: tuple[float, float] | None, affine: Affine | None, max_values: int | None
) -> tuple[Tensor, Tensor | None]:
    """Measure by separate torch operations: right on every device, type and memory layout."""
    values = require_floating(x) if affine is None else transformed(x, axis, affine)
    moments = pack(channel_moments(values, channel_axis=axis, saturation=saturation))
    return moments, None if max_values == 0 else count_buckets(values, max_values=max_values)


def pooled(packed: Tensor) -> Tensor:
    """Return the packed statistics of all channels as one, (rows, 1), from those per channel, (rows, C).

    Formula and source: those of `pool`, in float64. Without the kernels `packed` itself is returned: pooling a
    whole table at once (`columns_of`) is less work than some twenty operations a row.

    Example:
        >>> from ics.stats import columns_of
        >>> row = pooled(reduce(torch.tensor([[1.0, 5.0], [3.0, 9.0]]), channel_axis=1).moments)
        >>> columns_of(row[None])["mean"].tolist()
        [4.5]
    """
    pool_packed = getattr(fused_way("cpu"), "pool", None) if packed.is_cpu else None
    if pool_packed is None or packed.shape[-1] == 1 or packed.dtype != torch.float64 or not packed.is_contiguous():
        return packed
    out = torch.empty((len(PACKED), 1), dtype=torch.float64)
    pool_packed(packed.data_ptr(), packed.shape[-1], out.data_ptr())
    return out
