"""The work on one tensor, cut into jobs that depend on its shape alone, and what one thread does of it.

Job 0 is the histogram; the others are parts of the tensor, each with accumulators of its own. Threads take the next job
until none is left, and `finish` joins the parts in their order, so results depend neither on timing nor on how many
threads there are. An order (`REQUEST`) is a row of int64, since that is what C can be handed fastest.
"""

# mypy: ignore-errors
# (numba finds the types of these functions by itself.)

from __future__ import annotations

import struct

import numpy as np

from ics.stats.cpu.accumulators import M2, MEAN, NONFINITE, NUM_ROWS, WIDTH, join_channel, pool_packed, write_packed
from ics.stats.cpu.histogram import count_buckets
from ics.stats.cpu.loading import FLOAT32, apply, apply_each, load, stay
from ics.stats.cpu.moments import COLUMNS, MOST, ROWS, SCRATCH, add_chunk, add_tile
from ics.stats.cpu.native import double_of, kernel, load_f32, load_f64, store_f32, store_f64, take_next
from ics.stats.cpu.native import load_i64 as field  # of a request, which is a row of int64

_BY_COLUMNS_BELOW = 512  # neighbouring values of a channel, from which on a chunk is worth its sums across a vector
_FOLDED_BELOW = 32  # columns: a row this short leaves most of a vector empty, so that several are read as one

# What a request holds. The last two are float64, by their bits.
(
    SOURCE,  # address of the values
    KIND,  # FLOAT32, BFLOAT16 or FLOAT16
    OUTER,  # the layout in memory: outer * channels * inner values
    CHANNELS,
    INNER,
    PARTS,  # in how many parts the tensor is cut
    NEXT_JOB,  # the number of jobs taken so far
    ACCUMULATORS,  # address of parts * channels * WIDTH doubles
    MOMENTS_AT,  # address of the packed result, or 0
    HISTOGRAM,  # address of the counts, or 0
    TAKEN,  # values counted in the histogram
    STRIDE,  # and their distance in logical order
    LOGICAL_INNER,  # neighbours of one channel in logical order, and how far apart in memory neighbours
    BY_OUTER,  # along the outer axis,
    BY_CHANNEL,  # the channels
    BY_INNER,  # and the inner axis are
    SHIFTS,  # addresses of float32 per channel, or 0
    SCALES,
    HAS_ASYMPTOTES,
    LOW,  # at most this is saturated
    HIGH,  # at least this
) = range(21)
REQUEST = struct.Struct("=19q2d")
FIELDS = REQUEST.size // 8


@kernel
def take_jobs(request):
    """Do the next job of a request until none is left."""
    histogram = 1 if field(request, HISTOGRAM) != 0 else 0
    while True:
        job = take_next(request + 8 * NEXT_JOB)
        if job >= field(request, PARTS) + histogram:
            return
        # The histogram goes first: it cannot be cut, so a thread that began it last would be waited for.
        if job < histogram:
            _count(request)
        else:
            _measure(request, job - histogram)


@kernel
def _count(request):
    logical = (
        field(request, CHANNELS),
        field(request, LOGICAL_INNER),
        field(request, BY_OUTER),
        field(request, BY_CHANNEL),
        field(request, BY_INNER),
    )
    affine = (field(request, SHIFTS), field(request, SCALES))
    taken, stride = field(request, TAKEN), field(request, STRIDE)
    count_buckets(
        field(request, KIND),
        field(request, SOURCE),
        taken,
        stride,
        logical,
        affine,
        field(request, HISTOGRAM),
    )


@kernel
def _measure(request, part):
    outer, channels, inner = field(request, OUTER), field(request, CHANNELS), field(request, INNER)
    accumulators = field(request, ACCUMULATORS) + part * channels * (WIDTH * 8)
    for i in range(channels * WIDTH):
        store_f64(accumulators, i, 0.0)
    near = (
        field(request, HAS_ASYMPTOTES) != 0,
        double_of(field(request, LOW)),
        double_of(field(request, HIGH)),
    )
    if inner >= _BY_COLUMNS_BELOW:
        _by_chunks(request, part, accumulators, outer * channels, channels, inner, near)
        return
    # Neighbours in memory, of one outer index, are the columns; or of `folded` outer indices where they are few.
    columns = channels * inner
    folded = 2 * _FOLDED_BELOW // columns if columns < _FOLDED_BELOW else 1
    whole = outer // folded
    _by_tiles(request, part, accumulators, 0, whole, columns * folded, near)
    # What is left of the fold, less than one row of a tile, is measured by one thread.
    if part == 0 and whole * folded < outer:
        rest = (outer - whole * folded) * columns
        _by_tiles(request, -1, accumulators, whole * folded * columns, 1, rest, near)


@kernel
def _share(part, parts, jobs):
    """Return the first and the last but one of the jobs of a part; part -1 has all of them."""
    if part < 0:
        return 0, jobs
    return part * jobs // parts, (part + 1) * jobs // parts


@kernel
def _by_chunks(request, part, accumulators, rows, channels, inner, near):
    kind, source, shifts, scales = (
        field(request, KIND),
        field(request, SOURCE),
        field(request, SHIFTS),
        field(request, SCALES),
    )
    buffer = np.empty(MOST, np.float32)
    target = np.int64(buffer.ctypes.data)
    chunks = (inner + MOST - 1) // MOST
    first, last = _share(part, field(request, PARTS), rows * chunks)
    for job in range(first, last):
        row, chunk = job // chunks, job % chunks
        channel = row % channels
        start, stop = chunk * inner // chunks, (chunk + 1) * inner // chunks
        n = stop - start
        values = source + 4 * (row * inner + start)
        # float32 measured as it is needs no copy; all else is converted chunk by chunk, in the first-level cache.
        if kind != FLOAT32 or shifts != 0:
            load(kind, source, row * inner + start, n, 1, target)
            values = target
        if shifts != 0:
            apply(target, n, load_f32(shifts, channel), load_f32(scales, channel))
        add_chunk(accumulators + channel * (WIDTH * 8), values, n, near)
    stay(buffer)


@kernel
def _by_tiles(request, part, accumulators, begin, rows, columns, near):
    """Measure rows x columns values from position `begin` on, which is the first value of a channel."""
    kind, source, channels, inner = (
        field(request, KIND),
        field(request, SOURCE),
        field(request, CHANNELS),
        field(request, INNER),
    )
    shifts, scales = field(request, SHIFTS), field(request, SCALES)
    copied = kind != FLOAT32 or shifts != 0
    scratch_array = np.empty(SCRATCH // 4, np.float32)
    each = np.empty((2, COLUMNS), np.float32)
    buffer = np.empty(ROWS * COLUMNS if copied else 1, np.float32)
    scratch, target = np.int64(scratch_array.ctypes.data), np.int64(buffer.ctypes.data)
    own_shifts, own_scales = np.int64(each.ctypes.data), np.int64(each[1].ctypes.data)
    across = (columns + COLUMNS - 1) // COLUMNS
    first, last = _share(part, field(request, PARTS), (rows + ROWS - 1) // ROWS * across)
    for job in range(first, last):
        top, left = job // across * ROWS, job % across * COLUMNS
        height, width = min(ROWS, rows - top), min(COLUMNS, columns - left)
        channel, within = left // inner % channels, left % inner
        place, pitch = begin + top * columns + left, columns
        values = source + 4 * place
        if copied:
            for r in range(height):
                load(kind, source, place + r * columns, width, 1, target + 4 * r * width)
            values, pitch = target, width
        if shifts != 0:
            for j in range(width):
                of = (left + j) // inner % channels
                store_f32(own_shifts, j, load_f32(shifts, of))
                store_f32(own_scales, j, load_f32(scales, of))
            for r in range(height):
                apply_each(target + 4 * r * width, width, own_shifts, own_scales)
        add_tile(accumulators, channel, channels, inner, within, values, pitch, height, width, near, scratch)
    stay(scratch_array)
    stay(buffer)
    stay(each[0])


@kernel
def finish(request):
    """Join the parts, and write the packed statistics per channel."""
    channels, accumulators = field(request, CHANNELS), field(request, ACCUMULATORS)
    for c in range(channels):
        into = accumulators + c * (WIDTH * 8)
        for part in range(1, field(request, PARTS)):
            join_channel(into, into + part * channels * (WIDTH * 8))
    write_packed(accumulators, channels, field(request, HAS_ASYMPTOTES) != 0, field(request, MOMENTS_AT))


@kernel
def measure_together(requests, count, bases, epsilons, pooled):
    """Measure several small tensors in one thread.

    Args:
        requests: address of their requests, one after the other, of one part each.
        count: how many.
        bases: address of an int64 for each: the number of an earlier one on whose tensor, and with whose mean and
            variance, this one measures (x - mean) / sqrt(variance + eps); -1 where it measures x.
        epsilons: address of a float64 for each: eps.
        pooled: address of a row of doubles for each, its statistics pooled over channels; or 0.
    """
    for i in range(count):
        request, base = requests + i * (8 * FIELDS), field(bases, i)
        # Tasks are measured in their order, so the mean and variance of the earlier one are there already.
        if base >= 0:
            _normalize(request, field(requests + base * (8 * FIELDS), MOMENTS_AT), load_f64(epsilons, i))
        take_jobs(request)
        finish(request)
        if pooled != 0:
            pool_packed(field(request, MOMENTS_AT), field(request, CHANNELS), pooled + i * (8 * NUM_ROWS))


@kernel
def _normalize(request, moments, eps):
    """Write shift and scale of each channel. A value that is not finite spreads over the channel, as in BatchNorm."""
    channels, shifts, scales = field(request, CHANNELS), field(request, SHIFTS), field(request, SCALES)
    for c in range(channels):
        mean, variance = load_f64(moments, MEAN * channels + c), load_f64(moments, M2 * channels + c)
        nonfinite = load_f64(moments, NONFINITE * channels + c)
        store_f32(shifts, c, np.float32(np.nan if nonfinite > 0 else mean))
        store_f32(scales, c, np.float32(1.0 / np.sqrt(variance + eps)))
