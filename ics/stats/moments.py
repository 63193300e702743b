"""Moments, extrema and counts of each channel of a tensor; they pool over channels and merge over tensors.

Two passes: the extent of each channel (sum, smallest, largest), then power sums of the values centred near the mean
and scaled to order 1. Centring first is what keeps a variance of 1e-4 around a mean of 100 in float32, where
E[x^2] - E[x]^2 returns 0. Scaling by a power of two keeps the fourth power of a gradient of 1e-12 from underflowing,
and rounds nothing. The mathematics of the passes is `_extent` and `_raw_sums` alone: pure functions of one block
(outer, C, inner) that a fused kernel can stand in for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ics.stats.layout import accumulator_dtype, as_slabs, blocks, working_dtype

SATURATED_WITHIN = 0.01  # of the distance between the asymptotes
_REDUCED = (0, 2)  # outer and inner of a block (outer, C, inner)
# For each type computed in: the integer of its size, the bits of its exponent, and the largest power of two whose
# inverse is not subnormal.
_FLOATS = {
    torch.float32: (torch.int32, 0x7F80_0000, 2.0**126),
    torch.float64: (torch.int64, 0x7FF0_0000_0000_0000, 2.0**1022),
}


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sufficient statistics of the finite values, per channel (shape (C,)) or pooled (shape ()).

    Real numbers are float64 (float32 on mps), counts int64, all on the device of the tensor measured. Where `count` is
    0 the real numbers are NaN.

    Attributes:
        count: finite values n.
        mean: sum(x) / n.
        m2: sum((x - mean)^2) / n, the biased variance; `m3`, `m4` likewise with powers 3 and 4.
        minimum: smallest finite value; `maximum` the largest.
        zero_count: values that are exactly 0 (or -0).
        negative_count: finite values below 0.
        saturated_count: finite values near an asymptote; None where there are no asymptotes.
        nonfinite_count: values that are NaN or infinite.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    m3: Tensor
    m4: Tensor
    minimum: Tensor
    maximum: Tensor
    zero_count: Tensor
    negative_count: Tensor
    saturated_count: Tensor | None
    nonfinite_count: Tensor


def channel_moments(x: Tensor, *, channel_axis: int, saturation: tuple[float, float] | None = None) -> Moments:
    """Measure moments 1 to 4, extrema and counts of each channel over all other axes.

    Formula: `mean = sum(x) / n` and `m_k = sum((x - mean)^k) / n` over the n finite values of a channel, from sums of
    powers about a float32 (float64 for float64 tensors) approximation of the mean, corrected in float64.
    Accuracy: relative error of the mean and m2 below 1e-5 for float32, of m3 and m4 below 1e-4 of m2^1.5 and m2^2.
    Shapes: any tensor with the axis; results (C,). Cost: two reads of the tensor; no host synchronisation.
    Source: docs/science.md, section 3.2.

    Args:
        x: float32, float64, bfloat16 or float16 tensor, of any memory layout; may be empty.
        channel_axis: the axis that counts channels; may be negative.
        saturation: asymptotes (low, high) of a bounded activation function; values within 1 % of `high - low` from
            either, and beyond, are counted. None leaves `saturated_count` None.

    Raises:
        UsageError: the tensor is not real floating, or has no such axis.

    Example:
        >>> moments = channel_moments(torch.tensor([[1.0, 0.0], [3.0, float("nan")]]), channel_axis=1)
        >>> moments.mean.tolist(), moments.m2.tolist(), moments.nonfinite_count.tolist()
        ([2.0, 0.0], [1.0, 0.0], [0, 1])
    """
    slabs = as_slabs(x, channel_axis=channel_axis)
    size = slabs.shape[0] * slabs.shape[2]
    if size * slabs.shape[1] == 0:
        return _no_values(slabs.shape[1:2], like=slabs, has_asymptotes=saturation is not None)
    # Reading a CPU tensor from Python synchronises nothing, so there the usual case, all finite, is spared the masks.
    masked = slabs.device.type != "cpu"
    extent = _whole_extent(slabs, masked)
    if not masked and not math.isfinite(extent.sum()):
        masked = True
        extent = _whole_extent(slabs, masked)
    count = size - extent[3]
    shift, unit = _centre(extent, count, working_dtype(slabs), masked)
    parts = [_raw_sums(block, shift, unit, masked, saturation).to(extent.dtype) for block in blocks(slabs)]
    return _central(_added(parts), count, shift[:, 0], unit[:, 0], extent)


def whole_tensor(slabs: Tensor, saturation: tuple[Tensor, Tensor] | None) -> Moments:
    """Return the statistics of slabs as one block, as a compiler takes them: no loop, and no value read on the host."""
    values = slabs.to(working_dtype(slabs))
    extent = _extent(values, True).to(accumulator_dtype(slabs.device))
    count = slabs.shape[0] * slabs.shape[2] - extent[3]
    shift, unit = _centre(extent, count, values.dtype, True)
    sums = _raw_sums(values, shift, unit, True, saturation).to(extent.dtype)
    return _central(sums, count, shift[:, 0], unit[:, 0], extent)


def pool(moments: Moments) -> Moments:
    """Return the statistics of all channels together, shape (), from those per channel, shape (C,).

    Formula: Chan's merge, `mean = sum(w mean_c)`, `m2 = sum(w (m2_c + d^2))`, `m3 = sum(w (m3_c + 3 d m2_c + d^3))`,
    `m4 = sum(w (m4_c + 4 d m3_c + 6 d^2 m2_c + d^4))` with `w = n_c / n` and `d = mean_c - mean`.
    Source: Chan, Golub & LeVeque 1979; Pebay 2008, eq. 3.1. Cost: a few operations on (C,).

    Example:
        >>> pool(channel_moments(torch.tensor([[1.0, 5.0], [3.0, 7.0]]), channel_axis=1)).mean.item()
        4.0
    """
    return combined(moments)


def merge(a: Moments, b: Moments) -> Moments:
    """Return the statistics of the union of two sets of values, channel by channel: Chan's merge, as in `pool`.

    Associative and commutative up to rounding; merging with statistics of no values returns the other's exactly.
    `saturated_count` is None unless both have one. Cost: a few operations on (2, C).

    Example:
        >>> halves = [channel_moments(part, channel_axis=1) for part in torch.arange(8.0).reshape(8, 1).split(4)]
        >>> merge(*halves).mean.tolist()
        [3.5]
    """
    both: dict[str, Any] = {f.name: _stack(getattr(a, f.name), getattr(b, f.name)) for f in fields(Moments)}
    return combined(Moments(**both))


def _stack(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else torch.stack((a, b))


def _extent(x: Tensor, masked: bool) -> Tensor:
    """Return sum, minimum, maximum and number of non-finite values per channel, shape (4, C), of a block.

    Not `masked`, the sums and counts are right only for finite values, but any other value shows in the extrema.
    """
    if not masked:
        total = x.sum(_REDUCED)
        return torch.stack((total, x.amin(_REDUCED), x.amax(_REDUCED), torch.zeros_like(total)))
    finite = x.nan_to_num(0.0, 0.0, 0.0)
    inf = float("inf")
    minimum = x.nan_to_num(inf, inf, inf).amin(_REDUCED)
    maximum = x.nan_to_num(-inf, -inf, -inf).amax(_REDUCED)
    return torch.stack((finite.sum(_REDUCED), minimum, maximum, (finite != x).to(x.dtype).sum(_REDUCED)))


def _whole_extent(slabs: Tensor, masked: bool) -> Tensor:
    dtype = accumulator_dtype(slabs.device)
    parts = [_extent(block, masked).to(dtype) for block in blocks(slabs)]
    if len(parts) == 1:
        return parts[0]
    every = torch.stack(parts)
    return torch.stack((every[:, 0].sum(0), every[:, 1].amin(0), every[:, 2].amax(0), every[:, 3].sum(0)))


def _added(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(tuple(parts)).sum(0)


def _centre(extent: Tensor, count: Tensor, dtype: torch.dtype, masked: bool) -> tuple[Tensor, Tensor]:
    """Return a point near the mean, and the largest power of two below the distance of any value from it, (C, 1)."""
    total, minimum, maximum, _ = extent
    mean = total / count
    if masked:
        # The sum of finite values may overflow; the middle is near enough, as the sum of first powers corrects it.
        # Without any finite value all of this is NaN, as the moments should be.
        mean = torch.where(mean.isfinite(), mean, minimum / 2 + maximum / 2)
    # Of a constant channel the rounding of the sum must not show; with its value as the shift, nothing does.
    shift = torch.where(minimum == maximum, minimum, mean).to(dtype)
    radius = torch.maximum(maximum - shift, shift - minimum).to(dtype)
    as_integer, exponent_bits, largest = _FLOATS[dtype]
    unit = (radius.view(as_integer) & exponent_bits).view(dtype).clamp_(1 / largest, largest)
    # Of a constant channel every power is 0 in any unit; its mean in units of 1 / largest would overflow.
    return shift[:, None], unit.masked_fill_(radius == 0, 1.0)[:, None]


def _raw_sums(x: Tensor, shift: Tensor, unit: Tensor, masked: bool, saturation: tuple[Any, Any] | None) -> Tensor:
    """Return sums of z, z^2, z^3, z^4 with z = (x - shift) / unit, then counts of zero, negative and saturated values.

    Shape (6, C), or (7, C) with `saturation`, over the finite values of a block. Division by a power of two rounds
    nothing, so z is rounded once, as x - shift is.
    """
    z = torch.addcmul(-shift / unit, x, 1 / unit)
    z = z.nan_to_num_(0.0, 0.0, 0.0) if masked else z
    square = z * z
    sums = [z.sum(_REDUCED), square.sum(_REDUCED), z.mul_(square).sum(_REDUCED), square.mul_(square).sum(_REDUCED)]
    # Comparisons write floats into a tensor that is done with: on a CPU several times as fast as summing bools.
    signed = x.nan_to_num(1.0, 1.0, 1.0) if masked else x
    out = None if masked else z  # masked may be traced, and a graph takes no `out` that has gaps
    sums += [torch.eq(signed, 0, out=out).to(z.dtype).sum(_REDUCED)]
    sums += [torch.lt(signed, 0, out=out).to(z.dtype).sum(_REDUCED)]
    if saturation is not None:
        low, high = saturation
        margin, middle = SATURATED_WITHIN * (high - low), (low + high) / 2
        bounded = torch.where(x.isfinite(), x, middle) if masked else x
        near_low = torch.le(bounded, low + margin, out=out).to(z.dtype).sum(_REDUCED)
        sums.append(near_low + torch.ge(bounded, high - margin, out=out).to(z.dtype).sum(_REDUCED))
    return torch.stack(sums)


def _central(sums: Tensor, count: Tensor, shift: Tensor, unit: Tensor, extent: Tensor) -> Moments:
    """Return the moments about the mean from the sums about `shift`, in units of `unit`."""
    d, s2, s3, s4 = sums[:4] / count  # 0 / 0 of no values: the NaN that all real numbers then are
    whole = torch.cat((count[None], extent[3:], sums[4:])).to(torch.int64)
    extrema = extent[1:3] + 0 * d  # finite extrema stay, those of no values become NaN
    unit = unit.to(sums.dtype)
    dd, square = d * d, unit * unit
    c2 = s2 - dd
    c3 = s3 - d * (3 * c2 + dd)
    c4 = s4 - d * (4 * c3 + d * (6 * c2 + dd))
    return Moments(
        count=whole[0],
        mean=d * unit + shift,
        m2=c2.clamp_min(0.0) * square,
        m3=c3 * (square * unit),
        m4=c4.clamp_min(0.0) * (square * square),
        minimum=extrema[0],
        maximum=extrema[1],
        zero_count=whole[2],
        negative_count=whole[3],
        saturated_count=whole[4] if len(whole) > 4 else None,
        nonfinite_count=whole[1],
    )


def combined(m: Moments) -> Moments:
    """Return the statistics of all values counted along the first axis, which goes."""
    if len(m.count) == 0:
        return _no_values(m.count.shape[1:], like=m.mean, has_asymptotes=m.saturated_count is not None)
    count, has_values = m.count.sum(0), m.count > 0
    weight = m.count.to(m.mean.dtype) / count  # of no values 0 / 0: the NaN that all real numbers then are
    means, m2, m3, m4 = torch.where(has_values, torch.stack((m.mean, m.m2, m.m3, m.m4)), 0.0)
    mean = (weight * means).sum(0)
    d = means - mean
    square = d * d
    return Moments(
        count=count,
        mean=mean,
        m2=(weight * (m2 + square)).sum(0),
        m3=(weight * (m3 + d * (3 * m2 + square))).sum(0),
        m4=(weight * (m4 + d * (4 * m3 + d * (6 * m2 + square)))).sum(0),
        minimum=torch.where(has_values, m.minimum, torch.inf).amin(0).where(count > 0, torch.nan),
        maximum=torch.where(has_values, m.maximum, -torch.inf).amax(0).where(count > 0, torch.nan),
        zero_count=m.zero_count.sum(0),
        negative_count=m.negative_count.sum(0),
        saturated_count=None if m.saturated_count is None else m.saturated_count.sum(0),
        nonfinite_count=m.nonfinite_count.sum(0),
    )


def _no_values(shape: Sequence[int], *, like: Tensor, has_asymptotes: bool) -> Moments:
    """Return the statistics of no values: counts of 0, and no numbers, on the device of `like`."""
    zero = torch.zeros(shape, dtype=torch.int64, device=like.device)
    nan = torch.full(shape, torch.nan, dtype=accumulator_dtype(like.device), device=like.device)
    return Moments(zero, nan, nan, nan, nan, nan, nan, zero, zero, zero if has_asymptotes else None, zero)
