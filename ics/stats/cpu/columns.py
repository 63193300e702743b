"""The statistics of a tile of columns: values of a channel that lie far apart, beside those of other channels.

The loops run along the rows of the tile, so that memory is read in order and a vector holds as many columns. Four rows
are taken at once, since each pass loads and stores the partial sums of all columns. The tile (at most 256 KiB) stays in
the second-level cache between the two readings. The mathematics is that of `ics.stats.cpu.chunk`.
"""

# mypy: ignore-errors
# (numba finds the types of these functions by itself.)

from __future__ import annotations

from ics.stats.cpu.chunk import (
    F32,
    I32,
    LARGEST,
    LOWEST,
    MAGNITUDE,
    MINUS_ONE,
    ONE,
    WIDTH,
    add_any,
    add_sums,
    kernel,
    middle,
    ordered,
    unit_of,
)
from ics.stats.cpu.native import (
    add,
    float_of,
    is_less,
    larger,
    load_f32,
    load_i32,
    smaller,
    store_f32,
    store_i32,
)

COLUMNS = 256
ROWS = 256  # a partial sum is float32 over so many values
SCRATCH = 12 * COLUMNS * 4  # bytes

_ROW = COLUMNS * 4  # bytes of one array of partial results
_LOW, _HIGH, _NEGATIVE, _AT_MOST_0, _TOTAL, _SATURATED = (row * _ROW for row in range(6))
_INVERSE, _OFFSET, _S1, _S2, _S3, _S4 = (row * _ROW for row in range(6, 12))
_FIRST_LOW, _FIRST_HIGH = MAGNITUDE, I32(-0x8000_0000)


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
    _extents(values, pitch, rows, columns, scratch)
    if near[0]:
        _saturated(values, pitch, rows, columns, F32(near[1]), F32(near[2]), scratch)
    _centre(rows, columns, scratch)
    _powers(values, pitch, rows, columns, scratch)
    for j in range(columns):
        into = accumulators + channel * (WIDTH * 8)
        first, last = load_i32(scratch + _LOW, j), load_i32(scratch + _HIGH, j)
        if first < LOWEST or last > LARGEST:
            add_any(into, values + 4 * j, rows, pitch, near)
        else:
            _finish(into, rows, j, float(float_of(ordered(first))), float(float_of(ordered(last))), near, scratch)
        within += 1
        if within == inner:
            within, channel = 0, channel + 1
            if channel == channels:
                channel = 0


@kernel
def _finish(into, rows, j, low, high, near, scratch):
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
def _extents(values, pitch, rows, columns, s):
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
def _centre(rows, columns, s):
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
def _powers(values, pitch, rows, columns, s):
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
def _saturated(values, pitch, rows, columns, low, high, s):
    for j in range(columns):
        store_f32(s + _SATURATED, j, F32(0))
    for r in range(rows):
        for j in range(columns):
            x = load_f32(values + 4 * r * pitch, j)
            near = F32(1) if (x <= low) | (x >= high) else F32(0)
            store_f32(s + _SATURATED, j, load_f32(s + _SATURATED, j) + near)
