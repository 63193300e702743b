"""Histograms over the fixed buckets of `ics.buckets`, read off the bits of the numbers.

The sub-buckets split each octave of magnitude into 16 equal parts, so the exponent of a number followed by the first
four bits of its mantissa *is* the number of its bucket, up to a constant. No logarithm, hence no rounding at an edge.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ics.buckets import LOWEST_EXPONENT, NUM_BUCKETS, OVERFLOW, SUB_BUCKETS
from ics.stats.layout import require_floating, working_dtype

# For each type computed in: the integer of its size, the number of bits of its mantissa, and the bias of its exponent.
_FLOATS = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}
_SUB_BITS = SUB_BUCKETS.bit_length() - 1


def histogram(x: Tensor, *, max_values: int | None = 65_536) -> Tensor:
    """Count the finite values of a tensor in each bucket, exactly with respect to `ics.buckets.bucket_edges`.

    Shapes: any tensor; the result is int64 (NUM_BUCKETS,), signed bucket b at index b + OVERFLOW. Results add up
    exactly over tensors. NaN and infinities are in no bucket; they are the `nonfinite_count` of the moments.
    Cost: one pass over the values counted; no host synchronisation.
    Source: `ics.buckets`, docs/science.md, section 3.2.

    Args:
        x: float32, float64, bfloat16 or float16 tensor, of any memory layout; may be empty.
        max_values: a larger tensor is sampled at a fixed stride, see `sample`; None counts every value.

    Raises:
        UsageError: the tensor is not real floating.

    Example:
        >>> counts = histogram(torch.tensor([0.0, 1.0, 1.0, -1.0]))
        >>> [(int(b) - OVERFLOW, int(counts[b])) for b in counts.nonzero()]
        [(-513, 1), (0, 1), (513, 2)]
    """
    values = sample(require_floating(x), max_values)
    index = _bucket_index(values.to(working_dtype(values))).long()
    # One place more than there are buckets takes NaN and infinities. Adding, since bincount synchronises on a GPU.
    counts = torch.zeros(NUM_BUCKETS + 1, dtype=torch.int64, device=x.device)
    return counts.scatter_add_(0, index, torch.ones_like(index))[:NUM_BUCKETS]


def sample(x: Tensor, max_values: int | None) -> Tensor:
    """Return at most `max_values` values as one vector: every k-th in logical order, from the first; None takes all.

    k is the smallest stride that is coprime to the number of values. A stride that shares a factor with the width or
    with the number of channels would visit the same columns, or the same few channels, again and again.

    Example:
        >>> sample(torch.arange(10.0), 5).tolist()
        [0.0, 3.0, 6.0, 9.0]
    """
    size, stride = x.numel(), stride_of(x.numel(), max_values)
    if stride == 1:
        return x.reshape(-1)
    if x.is_contiguous():
        return x.view(-1)[::stride]
    position, axes = torch.arange(0, size, stride, device=x.device), []
    for length in reversed(x.shape):
        axes.append(position % length)
        position = position // length
    return x[tuple(reversed(axes))]


def stride_of(size: int, max_values: int | None) -> int:
    """Return the stride of `sample` over so many values: 1 where it takes all."""
    if max_values is None or size <= max_values:
        return 1
    stride = -(-size // max_values)
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride


def _bucket_index(values: Tensor) -> Tensor:
    """Return signed bucket + OVERFLOW of each value, and NUM_BUCKETS for NaN and infinities."""
    as_integer, mantissa_bits, bias = _FLOATS[values.dtype]
    bits = values.view(as_integer)
    magnitude = bits & torch.iinfo(as_integer).max
    first = (bias + LOWEST_EXPONENT) * SUB_BUCKETS  # of 2^LOWEST_EXPONENT, whose bucket is 1
    bucket = (magnitude >> (mantissa_bits - _SUB_BITS)).sub_(first - 1).clamp_(0, OVERFLOW)
    negative = bits >> (torch.iinfo(as_integer).bits - 1)  # 0, or -1 of a set sign bit; (b ^ -1) - (-1) is -b
    index = (bucket ^ negative).sub_(negative).add_(OVERFLOW)
    infinity = (2 * bias + 1) << mantissa_bits
    return index.masked_fill_(magnitude >= infinity, NUM_BUCKETS)
