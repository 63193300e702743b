"""The histogram of `ics.buckets` over a sample at a fixed stride, equal to `ics.stats.histogram` count by count."""

# mypy: ignore-errors
# (numba finds the types of these functions by itself.)

from __future__ import annotations

import numpy as np

from ics.buckets import LOWEST_EXPONENT, NUM_BUCKETS, OVERFLOW, SUB_BUCKETS
from ics.stats.cpu.loading import apply_each, load, load_bits, stay
from ics.stats.cpu.moments import LARGEST, MAGNITUDE, SIGN
from ics.stats.cpu.native import (
    add,
    both,
    differ,
    is_less,
    kernel,
    larger,
    load_f32,
    load_i32,
    shift_right,
    smaller,
    store_f32,
    store_i32,
    store_i64,
    sub,
)

_I32 = np.int32
_MANTISSA = _I32(23 - (SUB_BUCKETS.bit_length() - 1))  # bits below those that number the sub-bucket
_BELOW_FIRST = _I32((127 + LOWEST_EXPONENT) * SUB_BUCKETS - 1)
_NOWHERE, _OVERFLOW, _ZERO, _ONE = _I32(NUM_BUCKETS), _I32(OVERFLOW), _I32(0), _I32(1)
_AT_ONCE = 1024
_TABLES = 4  # neighbours often fall into one bucket; adding to the same count again would wait for the first to land
_UNTIL_SPILL = 2**30  # counts of a table are int32


@kernel
def count_buckets(kind, source, taken, stride, logical, affine, out):
    """Write the counts over every `stride`-th value, `taken` in all, to address `out`: NUM_BUCKETS int64.

    Args:
        kind: type of the values.
        source: their address.
        taken: how many values are counted.
        stride: positions, in the order of the logical axes, between them.
        logical: (channels, inner, and how far apart in memory neighbours along outer, channels and inner are).
        affine: (address of the shifts, of the scales), or zeros.
        out: where to.
    """
    width = NUM_BUCKETS + 1
    tables = np.zeros(_TABLES * width, np.int32)
    totals = np.zeros(NUM_BUCKETS, np.int64)
    buffer = np.empty(3 * _AT_ONCE, np.float32)  # values, and the shift and scale of each
    values = np.int64(buffer.ctypes.data)
    in_order = logical[3] == logical[1] and logical[4] == 1 and affine[0] == 0
    for first in range(0, taken, _AT_ONCE):
        n = min(_AT_ONCE, taken - first)
        if in_order:
            load(kind, source, first * stride, n, stride, values)
        else:
            _gather(kind, source, first * stride, n, stride, logical, affine, values)
        index_buckets(values, n)
        _scatter(values, n, tables)
        if first % _UNTIL_SPILL == 0 or first + n == taken:
            for bucket in range(NUM_BUCKETS):
                for table in range(_TABLES):
                    totals[bucket] += tables[table * width + bucket]
            tables[:] = 0
    for bucket in range(NUM_BUCKETS):
        store_i64(out, bucket, totals[bucket])
    stay(buffer)


@kernel
def _gather(kind, source, position, n, stride, logical, affine, values):
    """Load n values from a logical position on; without divisions, which would cost more than all the rest."""
    channels, inner, by_outer, by_channel, by_inner = logical
    shifts, scales = values + 4 * _AT_ONCE, values + 8 * _AT_ONCE
    row, i = divmod(position, inner)
    o, c = divmod(row, channels)
    rows_ahead, ahead = divmod(stride, inner)
    outer_ahead, channels_ahead = divmod(rows_ahead, channels)
    for taken in range(n):
        store_i32(values, taken, load_bits(kind, source, o * by_outer + c * by_channel + i * by_inner))
        if affine[0] != 0:
            store_f32(shifts, taken, load_f32(affine[0], c))
            store_f32(scales, taken, load_f32(affine[1], c))
        o, c, i = o + outer_ahead, c + channels_ahead, i + ahead
        if i >= inner:
            i, c = i - inner, c + 1
        if c >= channels:
            c, o = c - channels, o + 1
    if affine[0] != 0:
        apply_each(values, n, shifts, scales)


@kernel
def index_buckets(values, n):
    """Replace each of n float32 by signed bucket + OVERFLOW, and by NUM_BUCKETS if it is not finite, as int32."""
    for i in range(n):
        bits = load_i32(values, i)
        magnitude = both(bits, MAGNITUDE)
        bucket = smaller(larger(sub(shift_right(magnitude, _MANTISSA), _BELOW_FIRST), _ZERO), _OVERFLOW)
        negative = shift_right(bits, SIGN)  # 0 or -1; (b ^ -1) - (-1) is -b
        index = add(sub(differ(bucket, negative), negative), _OVERFLOW)
        store_i32(values, i, _NOWHERE if is_less(LARGEST, magnitude) != 0 else index)


@kernel
def _scatter(indices, n, tables):
    address, width = np.int64(tables.ctypes.data), NUM_BUCKETS + 1
    whole = n - n % _TABLES
    for i in range(0, whole, _TABLES):
        for table in range(_TABLES):
            place = table * width + load_i32(indices, i + table)
            store_i32(address, place, add(load_i32(address, place), _ONE))
    for i in range(whole, n):
        place = np.int64(load_i32(indices, i))
        store_i32(address, place, add(load_i32(address, place), _ONE))
