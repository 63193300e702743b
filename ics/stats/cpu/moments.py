"""The statistics of the values of a channel, whether they lie one after the other (a chunk) or far apart (a tile).

A chunk stays in the first-level cache, so that reading it twice costs no memory: first the extent (sum, extrema,
classes), then power sums of z = (x - mean) / unit, with a power of two as unit so that no fourth power of a small
value underflows. Partial sums are float32 over at most `MOST` values; chunks join in float64, in an accumulator of
their channel (`ics.stats.cpu.accumulators`).

The columns of a tile are values of a channel that lie far apart in memory, beside those of other channels. The loops
run along the rows of the tile, so that memory is read in order and a vector holds as many columns. Four rows are taken
at once, since each pass loads and stores the partial sums of all columns. The tile (at most 256 KiB) stays in the
second-level cache between the two readings.

The order of floats is that of their bits as integers, once those of negative numbers are turned around (`ordered`). So
extrema and classes need no comparison of floats, which NaN would make slow or wrong; NaN shows as an extremum.
"""

# mypy: ignore-errors
# (numba finds the types of these functions by itself.)

from __future__ import annotations

import numpy as np

from ics.stats.cpu.accumulators import NEGATIVE, NONFINITE, SATURATED, WIDTH, ZERO, join
from ics.stats.cpu.native import (
    add,
    bits_of_double,
    both,
    differ,
    double_of,
    float_of,
    is_less,
    kernel,
    larger,
    load_f32,
    load_f64,
    load_i32,
    shift_right,
    smaller,
    store_f32,
    store_f64,
    store_i32,
)

MOST = 2048  # values of a chunk: a partial sum is float32 over so many
I32, F32 = np.int32, np.float32
MAGNITUDE = I32(0x7FFF_FFFF)
LARGEST = I32(0x7F7F_FFFF)  # the largest finite float, ordered
LOWEST = I32(-0x7F80_0000)  # the lowest finite float, ordered
ONE, MINUS_ONE, SIGN = I32(1), I32(-1), I32(31)
_EXPONENT = 0x7FF0_0000_0000_0000
_SMALLEST_UNIT, _LARGEST_UNIT = 2.0**-126, 2.0**126  # powers of two whose inverse float32 holds without loss

COLUMNS = 256  # of a tile
ROWS = 256  # a partial sum is float32 over so many values
SCRATCH = 12 * COLUMNS * 4  # bytes

_ROW = COLUMNS * 4  # bytes of one array of partial results
_LOW, _HIGH, _NEGATIVE, _AT_MOST_0, _TOTAL, _SATURATED = (row * _ROW for row in range(6))
_INVERSE, _OFFSET, _S1, _S2, _S3, _S4 = (row * _ROW for row in range(6, 12))
_FIRST_LOW, _FIRST_HIGH = MAGNITUDE, I32(-0x8000_0000)


@kernel
def ordered(bits):
    """Return int32 that are in the order of the floats; -0 is -1, +0 is 0. Its own inverse."""
    return differ(bits, both(shift_right(bits, SIGN), MAGNITUDE))


@kernel
def unit_of(shift, low, high):
    """Return the largest power of two below the distance of any value from `shift`."""
    radius = max(high - shift, shift - low)
    return min(max(double_of(bits_of_double(radius) & _EXPONENT), _SMALLEST_UNIT), _LARGEST_UNIT)


@kernel
def middle(total, n, low, high):
    """Return a float32 near the mean; the middle where the sum overflows, as the first power sum corrects it."""
    mean = F32(total / F32(n))
    if abs(mean) <= F32(3.4028234e38):
        return mean
    return F32(low / 2 + high / 2)


@kernel
def _extent(values, n):
    total, low, high, negative, at_most_0 = F32(0), MAGNITUDE, I32(-0x8000_0000), I32(0), I32(0)
    for i in range(n):
        bits = load_i32(values, i)
        key = ordered(bits)
        low, high = smaller(low, key), larger(high, key)
        negative = add(negative, is_less(key, MINUS_ONE))
        at_most_0 = add(at_most_0, is_less(key, ONE))
        total += float_of(bits)
    return total, low, high, negative, at_most_0


@kernel
def _powers(values, n, inverse, offset):
    s1, s2, s3, s4 = F32(0), F32(0), F32(0), F32(0)
    for i in range(n):
        z = load_f32(values, i) * inverse + offset
        square = z * z
        s1 += z
        s2 += square
        s3 += square * z
        s4 += square * square
    return s1, s2, s3, s4


@kernel
def _saturated(values, n, low, high):
    count = F32(0)
    for i in range(n):
        x = load_f32(values, i)
        count += F32(1) if (x <= low) | (x >= high) else F32(0)
    return count


@kernel
def add_chunk(into, values, n, near):
    """Join at most MOST float32 values to the accumulator of a channel; `near` as for `add_any`."""
    total, first, last, negative, at_most_0 = _extent(values, n)
    # Ordered as integers, NaN and infinities lie beyond the finite numbers on both sides, so the extrema show them.
    if first < LOWEST or last > LARGEST:
        add_any(into, values, n, 1, near)
        return
    low, high = float(float_of(ordered(first))), float(float_of(ordered(last)))
    shift = middle(total, n, low, high)
    unit = unit_of(float(shift), low, high)
    inverse = F32(1.0 / unit)
    s1, s2, s3, s4 = F32(0), F32(0), F32(0), F32(0)
    # A constant chunk has no powers to sum, and its unit would be the smallest there is.
    if low < high:
        s1, s2, s3, s4 = _powers(values, n, inverse, -shift * inverse)
    saturated = _saturated(values, n, F32(near[1]), F32(near[2])) if near[0] else F32(0)
    add_sums(into, n, shift, unit, s1, s2, s3, s4, low, high, at_most_0 - negative, negative, saturated)


@kernel
def add_sums(into, n, shift, unit, s1, s2, s3, s4, low, high, zero, negative, saturated):
    """Join n finite values to a channel, from the sums of powers of z = (x - shift) / unit."""
    if low == high:  # no rounding of the sums may give a constant channel a spread
        join(into, n, low, 0.0, 0.0, 0.0, low, high)
    else:
        over_n = 1.0 / n
        d, c2, c3, c4 = s1 * over_n, s2 * over_n, s3 * over_n, s4 * over_n
        dd, square = d * d, unit * unit
        # The sums are about `shift`, a float32 near the mean; here they move to the mean itself, in float64.
        c4 = max(c4 - d * (4 * c3 - d * (6 * c2 - 3 * dd)), 0.0)
        c3 = c3 - d * (3 * c2 - 2 * dd)
        c2 = max(c2 - dd, 0.0)
        join(
            into, n, shift + d * unit, n * c2 * square, n * c3 * (square * unit), n * c4 * (square * square), low, high
        )
    _add_counts(into, zero, negative, saturated, 0)


@kernel
def add_any(into, values, n, step, near):
    """Join values of which some are not finite, every `step`-th float32, one by one in float64.

    Args:
        into: address of the accumulator.
        values: address of the first value.
        n: how many.
        step: distance between them, in values.
        near: (whether there are asymptotes, at most this is saturated, at least this is saturated).
    """
    count, total, low, high = 0, 0.0, np.inf, -np.inf
    zero, negative, saturated = 0, 0, 0
    for i in range(n):
        x = load_f32(values, i * step)
        if both(load_i32(values, i * step), MAGNITUDE) <= LARGEST:
            count += 1
            total += x
            low, high = min(low, float(x)), max(high, float(x))
            zero += x == 0
            negative += x < 0
            saturated += near[0] and (x <= F32(near[1]) or x >= F32(near[2]))
    # Slow, but rare: a chunk or column with a value that is not finite.
    _add_counts(into, zero, negative, saturated, n - count)
    if count == 0:
        return
    mean, m2, m3, m4 = total / count, 0.0, 0.0, 0.0
    for i in range(n):
        if both(load_i32(values, i * step), MAGNITUDE) <= LARGEST:
            d = load_f32(values, i * step) - mean
            m2, m3, m4 = m2 + d * d, m3 + d * d * d, m4 + d * d * d * d
    if low == high:
        mean, m2, m3, m4 = low, 0.0, 0.0, 0.0
    join(into, count, mean, m2, m3, m4, low, high)


@kernel
def _add_counts(into, zero, negative, saturated, nonfinite):
    store_f64(into, ZERO, load_f64(into, ZERO) + zero)
    store_f64(into, NEGATIVE, load_f64(into, NEGATIVE) + negative)
    store_f64(into, SATURATED, load_f64(into, SATURATED) + saturated)
    store_f64(into, NONFINITE, load_f64(into, NONFINITE) + nonfinite)


@kernel
def add_tile(accumulators, channel, channels, inner, within, values, pitch, rows, columns, near, scratch):
    """Join rows x columns float32 values, columns at most COLUMNS, rows at most ROWS.

    Args:
        accumulators: address of those of all channels.
        channel: that of the first column.
        channels: how many there are; after the last comes the first.
        inner: how many neighbouring columns belong to one channel.
        within: how many columns of its channel lie before the first.
        values: address of the first value.
        pitch: values from one row to the next.
        rows: number of rows.
        columns: number of columns.
        near: as for `add_any`.
        scratch: address of SCRATCH bytes.
    """
    _tile_extents(values, pitch, rows, columns, scratch)
    if near[0]:
        _tile_saturated(values, pitch, rows, columns, F32(near[1]), F32(near[2]), scratch)
    _tile_centres(rows, columns, scratch)
    _tile_powers(values, pitch, rows, columns, scratch)
    for j in range(columns):
        into = accumulators + channel * (WIDTH * 8)
        first, last = load_i32(scratch + _LOW, j), load_i32(scratch + _HIGH, j)
        if first < LOWEST or last > LARGEST:
            add_any(into, values + 4 * j, rows, pitch, near)
        else:
            _join_column(into, rows, j, float(float_of(ordered(first))), float(float_of(ordered(last))), near, scratch)
        within += 1
        if within == inner:
            within, channel = 0, channel + 1
            if channel == channels:
                channel = 0


@kernel
def _join_column(into, rows, j, low, high, near, scratch):
    inverse = load_f32(scratch + _INVERSE, j)
    shift = middle(load_f32(scratch + _TOTAL, j), rows, low, high)
    negative = load_i32(scratch + _NEGATIVE, j)
    add_sums(
        into,
        rows,
        shift,
        1.0 / inverse,
        load_f32(scratch + _S1, j),
        load_f32(scratch + _S2, j),
        load_f32(scratch + _S3, j),
        load_f32(scratch + _S4, j),
        low,
        high,
        load_i32(scratch + _AT_MOST_0, j) - negative,
        negative,
        load_f32(scratch + _SATURATED, j) if near[0] else F32(0),
    )


@kernel
def _tile_extents(values, pitch, rows, columns, s):
    for j in range(columns):
        store_i32(s + _LOW, j, _FIRST_LOW)
        store_i32(s + _HIGH, j, _FIRST_HIGH)
        store_i32(s + _NEGATIVE, j, I32(0))
        store_i32(s + _AT_MOST_0, j, I32(0))
        store_f32(s + _TOTAL, j, F32(0))
    whole = rows - rows % 4
    for r in range(0, whole, 4):
        v0 = values + 4 * r * pitch
        v1, v2, v3 = v0 + 4 * pitch, v0 + 8 * pitch, v0 + 12 * pitch
        for j in range(columns):
            b0, b1, b2, b3 = load_i32(v0, j), load_i32(v1, j), load_i32(v2, j), load_i32(v3, j)
            k0, k1, k2, k3 = ordered(b0), ordered(b1), ordered(b2), ordered(b3)
            store_i32(s + _LOW, j, smaller(smaller(smaller(k0, k1), smaller(k2, k3)), load_i32(s + _LOW, j)))
            store_i32(s + _HIGH, j, larger(larger(larger(k0, k1), larger(k2, k3)), load_i32(s + _HIGH, j)))
            n01 = add(is_less(k0, MINUS_ONE), is_less(k1, MINUS_ONE))
            n23 = add(is_less(k2, MINUS_ONE), is_less(k3, MINUS_ONE))
            store_i32(s + _NEGATIVE, j, add(load_i32(s + _NEGATIVE, j), add(n01, n23)))
            z01, z23 = add(is_less(k0, ONE), is_less(k1, ONE)), add(is_less(k2, ONE), is_less(k3, ONE))
            store_i32(s + _AT_MOST_0, j, add(load_i32(s + _AT_MOST_0, j), add(z01, z23)))
            total = (float_of(b0) + float_of(b1)) + (float_of(b2) + float_of(b3))
            store_f32(s + _TOTAL, j, load_f32(s + _TOTAL, j) + total)
    for r in range(whole, rows):
        for j in range(columns):
            bits = load_i32(values + 4 * r * pitch, j)
            key = ordered(bits)
            store_i32(s + _LOW, j, smaller(key, load_i32(s + _LOW, j)))
            store_i32(s + _HIGH, j, larger(key, load_i32(s + _HIGH, j)))
            store_i32(s + _NEGATIVE, j, add(load_i32(s + _NEGATIVE, j), is_less(key, MINUS_ONE)))
            store_i32(s + _AT_MOST_0, j, add(load_i32(s + _AT_MOST_0, j), is_less(key, ONE)))
            store_f32(s + _TOTAL, j, load_f32(s + _TOTAL, j) + float_of(bits))


@kernel
def _tile_centres(rows, columns, s):
    for j in range(columns):
        low = float(float_of(ordered(load_i32(s + _LOW, j))))
        high = float(float_of(ordered(load_i32(s + _HIGH, j))))
        shift = middle(load_f32(s + _TOTAL, j), rows, low, high)
        inverse = F32(1.0 / unit_of(float(shift), low, high))
        store_f32(s + _INVERSE, j, inverse)
        store_f32(s + _OFFSET, j, -shift * inverse)
        store_f32(s + _S1, j, F32(0))
        store_f32(s + _S2, j, F32(0))
        store_f32(s + _S3, j, F32(0))
        store_f32(s + _S4, j, F32(0))


@kernel
def _tile_powers(values, pitch, rows, columns, s):
    whole = rows - rows % 4
    for r in range(0, whole, 4):
        v0 = values + 4 * r * pitch
        v1, v2, v3 = v0 + 4 * pitch, v0 + 8 * pitch, v0 + 12 * pitch
        for j in range(columns):
            inverse, offset = load_f32(s + _INVERSE, j), load_f32(s + _OFFSET, j)
            a, b = load_f32(v0, j) * inverse + offset, load_f32(v1, j) * inverse + offset
            c, d = load_f32(v2, j) * inverse + offset, load_f32(v3, j) * inverse + offset
            aa, bb, cc, dd = a * a, b * b, c * c, d * d
            store_f32(s + _S1, j, load_f32(s + _S1, j) + ((a + b) + (c + d)))
            store_f32(s + _S2, j, load_f32(s + _S2, j) + ((aa + bb) + (cc + dd)))
            store_f32(s + _S3, j, load_f32(s + _S3, j) + ((aa * a + bb * b) + (cc * c + dd * d)))
            store_f32(s + _S4, j, load_f32(s + _S4, j) + ((aa * aa + bb * bb) + (cc * cc + dd * dd)))
    for r in range(whole, rows):
        for j in range(columns):
            z = load_f32(values + 4 * r * pitch, j) * load_f32(s + _INVERSE, j) + load_f32(s + _OFFSET, j)
            square = z * z
            store_f32(s + _S1, j, load_f32(s + _S1, j) + z)
            store_f32(s + _S2, j, load_f32(s + _S2, j) + square)
            store_f32(s + _S3, j, load_f32(s + _S3, j) + square * z)
            store_f32(s + _S4, j, load_f32(s + _S4, j) + square * square)


@kernel
def _tile_saturated(values, pitch, rows, columns, low, high, s):
    for j in range(columns):
        store_f32(s + _SATURATED, j, F32(0))
    for r in range(rows):
        for j in range(columns):
            x = load_f32(values + 4 * r * pitch, j)
            near = F32(1) if (x <= low) | (x >= high) else F32(0)
            store_f32(s + _SATURATED, j, load_f32(s + _SATURATED, j) + near)
