"""What a normalisation did to its input and to the gradient: sums over three tensors that are read once, together.

Of the input y, g = dL/d(output) and d = dL/d(input) each channel's sums of c = y - s, c^2, g, g^2, g c and d^2 are
kept, in float64, with the channel's first value as s: then c is small beside no standard deviation of the
channel, for (s - mean)^2 is at most the sum of all (y - mean)^2. `finish` moves them to the mean. The work is cut into
jobs as in `ics.stats.cpu.jobs`: results depend on the shape alone.
"""

# mypy: ignore-errors
# (numba finds the types of these functions by itself.)

from __future__ import annotations

import numpy as np

from ics.stats.cpu.loading import FLOAT32, load, load_bits, stay
from ics.stats.cpu.native import both, float_of, kernel, load_f32, load_f64, store_f64, take_next
from ics.stats.cpu.native import load_i64 as field  # of a request, which is a row of int64

SUMS = 6
_LENGTH = 2048  # values of a channel that are summed at a time; they stay in the cache where they are converted
_COLUMNS = 256
_ROWS = 256
_BY_COLUMNS_BELOW = 128  # neighbouring values of a channel, from which on sums across a vector are worth it

F64 = np.float64  # numba takes `float` of a float32 for a float32
_MAGNITUDE, _INFINITY = np.int32(0x7FFF_FFFF), np.int32(0x7F80_0000)

# What a request holds: int64 each.
(
    INPUT,  # addresses of y,
    OUTPUT_GRADIENT,  # g,
    INPUT_GRADIENT,  # and d, or 0; in memory all three lie as outer * channels * inner values
    INPUT_KIND,  # FLOAT32, BFLOAT16 or FLOAT16
    OUTPUT_GRADIENT_KIND,
    INPUT_GRADIENT_KIND,
    OUTER,
    CHANNELS,
    INNER,
    PARTS,  # in how many parts the tensors are cut
    NEXT_JOB,  # the number of jobs taken so far
    ACCUMULATORS,  # address of parts * SUMS * channels doubles
    RESULT,  # address of SUMS * channels doubles
) = range(13)
FIELDS = 13


@kernel
def take_jobs(request):
    """Do the next part of a request until none is left."""
    while True:
        part = take_next(request + 8 * NEXT_JOB)
        if part >= field(request, PARTS):
            return
        channels = field(request, CHANNELS)
        sums = field(request, ACCUMULATORS) + part * channels * (8 * SUMS)
        for i in range(channels * SUMS):
            store_f64(sums, i, 0.0)
        # Which way is taken depends on the shape alone, so that equal tensors give equal sums on any number of threads.
        if field(request, INNER) >= _BY_COLUMNS_BELOW:
            _by_rows(request, part, sums)
        else:
            _by_columns(request, part, sums)


@kernel
def finish(request):
    """Join the parts, and write mean and variance of y, the sums of g, g^2 and g (y - mean), and of d^2."""
    channels, sums, result = field(request, CHANNELS), field(request, ACCUMULATORS), field(request, RESULT)
    n = F64(field(request, OUTER) * field(request, INNER))
    for i in range(channels * SUMS):
        total = 0.0
        for part in range(field(request, PARTS)):
            total += load_f64(sums, part * channels * SUMS + i)
        store_f64(sums, i, total)
    for c in range(channels):
        offset = load_f64(sums, c) / n
        variance = load_f64(sums, channels + c) / n - offset * offset
        ones = load_f64(sums, 2 * channels + c)
        store_f64(result, c, _shift(request, c) + offset)
        store_f64(result, channels + c, 0.0 if variance < 0.0 else variance)  # NaN stays
        store_f64(result, 2 * channels + c, ones)
        store_f64(result, 3 * channels + c, load_f64(sums, 3 * channels + c))
        store_f64(result, 4 * channels + c, load_f64(sums, 4 * channels + c) - offset * ones)
        missing = field(request, INPUT_GRADIENT) == 0
        store_f64(result, 5 * channels + c, np.nan if missing else load_f64(sums, 5 * channels + c))


@kernel
def _shift(request, channel):
    """Return the first value of a channel; 0 where it is not finite, or infinity less infinity would hide the mean."""
    bits = load_bits(field(request, INPUT_KIND), field(request, INPUT), channel * field(request, INNER))
    return F64(float_of(bits)) if both(bits, _MAGNITUDE) < _INFINITY else 0.0


@kernel
def _float32(kind, source, first, n, target):
    """Return the address of n values as float32: where they are, or, of another type, converted at `target`."""
    if kind == FLOAT32:
        return source + 4 * first
    load(kind, source, first, n, 1, target)
    return target


@kernel
def _add(sums, index, value):
    store_f64(sums, index, load_f64(sums, index) + value)


@kernel
def _by_rows(request, part, sums):
    """Take the channels' neighbouring values, at most _LENGTH at a time."""
    outer, channels, inner = field(request, OUTER), field(request, CHANNELS), field(request, INNER)
    y, g, d = field(request, INPUT), field(request, OUTPUT_GRADIENT), field(request, INPUT_GRADIENT)
    kind_y, kind_g = field(request, INPUT_KIND), field(request, OUTPUT_GRADIENT_KIND)
    kind_d = field(request, INPUT_GRADIENT_KIND)
    buffer = np.empty(3 * _LENGTH, np.float32)
    target = np.int64(buffer.ctypes.data)
    pieces = (inner + _LENGTH - 1) // _LENGTH
    jobs, parts = outer * channels * pieces, field(request, PARTS)
    for job in range(part * jobs // parts, (part + 1) * jobs // parts):
        row, piece = job // pieces, job % pieces
        start, stop = piece * inner // pieces, (piece + 1) * inner // pieces
        place, n, channel = row * inner + start, stop - start, row % channels
        values = _float32(kind_y, y, place, n, target)
        gradients = _float32(kind_g, g, place, n, target + 4 * _LENGTH)
        sent_back = gradients if d == 0 else _float32(kind_d, d, place, n, target + 8 * _LENGTH)
        s1, s2, ones, squared, along, back = _sums(values, gradients, sent_back, n, _shift(request, channel))
        _add(sums, channel, s1)
        _add(sums, channels + channel, s2)
        _add(sums, 2 * channels + channel, ones)
        _add(sums, 3 * channels + channel, squared)
        _add(sums, 4 * channels + channel, along)
        _add(sums, 5 * channels + channel, back)
    stay(buffer)


@kernel
def _sums(values, gradients, sent_back, n, shift):
    s1, s2, ones, squared, along, back = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        c, g, d = F64(load_f32(values, i)) - shift, F64(load_f32(gradients, i)), F64(load_f32(sent_back, i))
        s1 += c
        s2 += c * c
        ones += g
        squared += g * g
        along += g * c
        back += d * d
    return s1, s2, ones, squared, along, back


@kernel
def _by_columns(request, part, sums):
    """Take tiles whose rows are neighbours in memory, of one channel or several: a vector holds as many columns."""
    outer, channels, inner = field(request, OUTER), field(request, CHANNELS), field(request, INNER)
    columns, d = channels * inner, field(request, INPUT_GRADIENT)
    scratch = np.empty((SUMS + 1) * _COLUMNS, np.float64)
    buffer = np.empty(3 * 4 * _COLUMNS, np.float32)
    own, target = np.int64(scratch.ctypes.data), np.int64(buffer.ctypes.data)
    across, parts = (columns + _COLUMNS - 1) // _COLUMNS, field(request, PARTS)
    jobs = (outer + _ROWS - 1) // _ROWS * across
    for job in range(part * jobs // parts, (part + 1) * jobs // parts):
        top, left = job // across * _ROWS, job % across * _COLUMNS
        bottom, width = min(outer, top + _ROWS), min(_COLUMNS, columns - left)
        for i in range(SUMS * _COLUMNS):
            store_f64(own, i, 0.0)
        for j in range(width):
            store_f64(own, SUMS * _COLUMNS + j, _shift(request, (left + j) // inner))
        for row in range(top, bottom, 4):
            _add_rows(request, row * columns + left, columns, min(4, bottom - row), width, target, own, d)
        for j in range(width):
            channel = (left + j) // inner
            for k in range(SUMS):
                _add(sums, k * channels + channel, load_f64(own, k * _COLUMNS + j))
    stay(buffer)
    scratch[0] = 0.0  # keeps it in memory until here, as `stay` does


@kernel
def _add_rows(request, place, pitch, rows, width, target, own, d):
    """Add 1 to 4 rows of a tile to the columns' sums; four at a time, since these are loaded and stored each time."""
    kind_y, kind_g = field(request, INPUT_KIND), field(request, OUTPUT_GRADIENT_KIND)
    ys, y_pitch = _rows(kind_y, field(request, INPUT), place, pitch, rows, width, target)
    gs, g_pitch = _rows(kind_g, field(request, OUTPUT_GRADIENT), place, pitch, rows, width, target + 16 * _COLUMNS)
    ds, d_pitch = gs, g_pitch
    if d != 0:
        ds, d_pitch = _rows(field(request, INPUT_GRADIENT_KIND), d, place, pitch, rows, width, target + 32 * _COLUMNS)
    if rows == 4:
        _add_four(ys, y_pitch, gs, g_pitch, ds, d_pitch, width, own)
    else:
        for r in range(rows):
            _add_one(ys + r * y_pitch, gs + r * g_pitch, ds + r * d_pitch, width, own)


@kernel
def _rows(kind, source, place, pitch, rows, width, target):
    """Return the address of the first of a tile's rows as float32, and the bytes from one to the next."""
    if kind == FLOAT32:
        return source + 4 * place, 4 * pitch
    for r in range(rows):
        load(kind, source, place + r * pitch, width, 1, target + 4 * r * _COLUMNS)
    return target, 4 * _COLUMNS


@kernel
def _add_four(ys, y_pitch, gs, g_pitch, ds, d_pitch, width, own):
    y1, y2, y3 = ys + y_pitch, ys + 2 * y_pitch, ys + 3 * y_pitch
    g1, g2, g3 = gs + g_pitch, gs + 2 * g_pitch, gs + 3 * g_pitch
    d1, d2, d3 = ds + d_pitch, ds + 2 * d_pitch, ds + 3 * d_pitch
    for j in range(width):
        shift = load_f64(own, SUMS * _COLUMNS + j)
        c0, c1 = F64(load_f32(ys, j)) - shift, F64(load_f32(y1, j)) - shift
        c2, c3 = F64(load_f32(y2, j)) - shift, F64(load_f32(y3, j)) - shift
        p0, p1, p2, p3 = F64(load_f32(gs, j)), F64(load_f32(g1, j)), F64(load_f32(g2, j)), F64(load_f32(g3, j))
        q0, q1, q2, q3 = F64(load_f32(ds, j)), F64(load_f32(d1, j)), F64(load_f32(d2, j)), F64(load_f32(d3, j))
        _add(own, j, (c0 + c1) + (c2 + c3))
        _add(own, _COLUMNS + j, (c0 * c0 + c1 * c1) + (c2 * c2 + c3 * c3))
        _add(own, 2 * _COLUMNS + j, (p0 + p1) + (p2 + p3))
        _add(own, 3 * _COLUMNS + j, (p0 * p0 + p1 * p1) + (p2 * p2 + p3 * p3))
        _add(own, 4 * _COLUMNS + j, (p0 * c0 + p1 * c1) + (p2 * c2 + p3 * c3))
        _add(own, 5 * _COLUMNS + j, (q0 * q0 + q1 * q1) + (q2 * q2 + q3 * q3))


@kernel
def _add_one(ys, gs, ds, width, own):
    for j in range(width):
        c = F64(load_f32(ys, j)) - load_f64(own, SUMS * _COLUMNS + j)
        g, d = F64(load_f32(gs, j)), F64(load_f32(ds, j))
        _add(own, j, c)
        _add(own, _COLUMNS + j, c * c)
        _add(own, 2 * _COLUMNS + j, g)
        _add(own, 3 * _COLUMNS + j, g * g)
        _add(own, 4 * _COLUMNS + j, g * c)
        _add(own, 5 * _COLUMNS + j, d * d)
