"""All parameters of a model in one call: norms and updates, and statistics of gradients, cut into parts.

A part is a row of int64. Threads take the next part until none is left, and what the parts of a tensor give is joined
in their order, so results depend neither on timing nor on how many threads there are. Sums of squares are accumulated
in float64, moments as in `ics.stats.cpu.moments`, both while a chunk of the values is in the first-level cache.
"""

# mypy: ignore-errors
# (numba finds the types of these functions by itself.)

from __future__ import annotations

import numpy as np

from ics.buckets import NUM_BUCKETS, OVERFLOW
from ics.stats.cpu.accumulators import NUM_ROWS, WIDTH, join_channel, write_packed
from ics.stats.cpu.histogram import count_buckets, index_buckets
from ics.stats.cpu.loading import FLOAT32, load, stay
from ics.stats.cpu.moments import I32, MOST, ONE, add_chunk
from ics.stats.cpu.native import (
    add,
    kernel,
    larger,
    load_f32,
    load_f64,
    load_i32,
    load_i64,
    smaller,
    store_f64,
    store_i32,
    store_i64,
    take_next,
)
from ics.stats.cpu.vectors import F64, sum_of_squares

SQUARES = NUM_ROWS  # the place in a channel's accumulator that the statistics leave free: the sum of x^2
_BLOCK = 4096  # values whose sum is one
_AT_ONCE = 1024
_COUNTED_HERE = 16_384  # values; beyond, `count_buckets` with its four tables is faster

# What an order holds.
(
    NEXT_PART,  # the number of parts taken so far
    PARTS,  # how many there are
    PARTS_AT,  # address of their rows
    TENSORS,  # of how many tensors `finish` joins the parts
    TENSORS_AT,  # address of their rows
) = range(5)

# What a part holds.
(
    WHAT,  # CHANGE, GRADIENT or HISTOGRAM
    SOURCE,  # address of float32
    LENGTH,  # how many of them (GRADIENT: of each channel; HISTOGRAM: how many are counted)
    OUT,  # address of the result
    OTHER,  # CHANGE: address of the values they became
    CHANNELS,  # GRADIENT: how many channels lie one after the other; HISTOGRAM: channels of the layout
    STRIDE,  # HISTOGRAM: the layout, as in `ics.stats.cpu.jobs`
    LOGICAL_INNER,
    BY_OUTER,
    BY_CHANNEL,
    BY_INNER,
) = range(11)
PART = BY_INNER + 1
CHANGE, GRADIENT, HISTOGRAM = range(3)

# What `finish` needs of a tensor.
ACCUMULATORS, NUM_PARTS, NUM_CHANNELS, MOMENTS_AT, SQUARES_AT = range(5)
TENSOR = 5


@kernel
def take_parts(order):
    """Do the next part of an order until none is left."""
    while True:
        number = take_next(order + 8 * NEXT_PART)
        if number >= load_i64(order, PARTS):
            return
        part = load_i64(order, PARTS_AT) + number * (8 * PART)
        if load_i64(part, WHAT) == CHANGE:
            _change(part)
        elif load_i64(part, WHAT) == GRADIENT:
            _gradient(part)
        else:
            _histogram(part)


@kernel
def _change(part):
    """Write the sums of x^2 and of (y - x)^2, the difference rounded to float32, of x and what it became, y."""
    first, second, n = load_i64(part, SOURCE), load_i64(part, OTHER), load_i64(part, LENGTH)
    squares, changes = 0.0, 0.0
    for start in range(0, n, _BLOCK):
        own_squares, own_changes = 0.0, 0.0
        for i in range(start, min(start + _BLOCK, n)):
            x = load_f32(first, i)
            d = F64(load_f32(second, i) - x)
            own_squares += F64(x) * F64(x)
            own_changes += d * d
        squares += own_squares
        changes += own_changes
    store_f64(load_i64(part, OUT), 0, squares)
    store_f64(load_i64(part, OUT), 1, changes)


@kernel
def _gradient(part):
    """Fill the accumulators of channels that lie one after the other."""
    n = load_i64(part, LENGTH)
    chunks = (n + MOST - 1) // MOST
    for channel in range(load_i64(part, CHANNELS)):
        values = load_i64(part, SOURCE) + 4 * n * channel
        into = load_i64(part, OUT) + 8 * WIDTH * channel
        for i in range(WIDTH):
            store_f64(into, i, 0.0)
        squares = 0.0
        for chunk in range(chunks):
            start, stop = chunk * n // chunks, (chunk + 1) * n // chunks
            add_chunk(into, values + 4 * start, stop - start, (False, 0.0, 0.0))
            squares += sum_of_squares(values + 4 * start, stop - start)
        store_f64(into, SQUARES, squares)


@kernel
def _histogram(part):
    """Write how many buckets have a count, their signed numbers, ascending, and the counts."""
    taken, out = load_i64(part, LENGTH), load_i64(part, OUT)
    if load_i64(part, STRIDE) == 1 and taken <= _COUNTED_HERE:
        _count_all(load_i64(part, SOURCE), taken, out)
        return
    logical = (
        load_i64(part, CHANNELS),
        load_i64(part, LOGICAL_INNER),
        load_i64(part, BY_OUTER),
        load_i64(part, BY_CHANNEL),
        load_i64(part, BY_INNER),
    )
    dense = np.empty(NUM_BUCKETS, np.int64)
    counts = np.int64(dense.ctypes.data)
    count_buckets(FLOAT32, load_i64(part, SOURCE), taken, load_i64(part, STRIDE), logical, (0, 0), counts)
    room, found = min(taken, NUM_BUCKETS), 0
    for bucket in range(NUM_BUCKETS):
        if dense[bucket] > 0:
            store_i64(out, 1 + found, bucket - OVERFLOW)
            store_i64(out, 1 + room + found, dense[bucket])
            found += 1
    store_i64(out, 0, found)


@kernel
def _count_all(source, n, out):
    """The same for some thousand values, all of them counted: one table, of which the middle is looked at."""
    table, buffer = np.zeros(NUM_BUCKETS + 1, np.int32), np.empty(_AT_ONCE, np.float32)
    counts, indices = np.int64(table.ctypes.data), np.int64(buffer.ctypes.data)
    first, last = I32(NUM_BUCKETS), I32(0)
    for start in range(0, n, _AT_ONCE):
        here = min(_AT_ONCE, n - start)
        load(FLOAT32, source, start, here, 1, indices)
        index_buckets(indices, here)
        for i in range(here):
            bucket = load_i32(indices, i)
            first, last = smaller(first, bucket), larger(last, bucket)
        for i in range(here):
            place = np.int64(load_i32(indices, i))
            store_i32(counts, place, add(load_i32(counts, place), ONE))
    room, found = min(n, NUM_BUCKETS), 0
    for bucket in range(np.int64(first), min(np.int64(last) + 1, NUM_BUCKETS)):
        if load_i32(counts, bucket) > 0:
            store_i64(out, 1 + found, bucket - OVERFLOW)
            store_i64(out, 1 + room + found, np.int64(load_i32(counts, bucket)))
            found += 1
    store_i64(out, 0, found)
    table[0] = 0  # as `stay`: numba would free it after the last use of its name
    stay(buffer)


@kernel
def finish(order):
    """Join the parts of each tensor, and write its packed statistics (rows, C) and its sum of squares."""
    for number in range(load_i64(order, TENSORS)):
        tensor = load_i64(order, TENSORS_AT) + number * (8 * TENSOR)
        accumulators, channels = load_i64(tensor, ACCUMULATORS), load_i64(tensor, NUM_CHANNELS)
        squares = 0.0
        for channel in range(channels):
            squares += load_f64(accumulators + channel * (8 * WIDTH), SQUARES)
        for part in range(1, load_i64(tensor, NUM_PARTS)):  # more than one only of a tensor that is one channel
            other = accumulators + part * (8 * WIDTH)
            join_channel(accumulators, other)
            squares += load_f64(other, SQUARES)
        store_f64(load_i64(tensor, SQUARES_AT), 0, squares)
        write_packed(accumulators, channels, False, load_i64(tensor, MOMENTS_AT))


@kernel
def gather_histograms(places, count, buckets, counts):
    """Copy the histograms that parts wrote, one after the other.

    Args:
        places: address of (address of a part's result, room for its buckets), one pair a histogram.
        count: how many.
        buckets: address of int64 for the numbers of the buckets of all.
        counts: the same for their counts.
    """
    start = 0
    for number in range(count):
        source, room = load_i64(places, 2 * number), load_i64(places, 2 * number + 1)
        found = load_i64(source, 0)
        for i in range(found):
            store_i64(buckets, start + i, load_i64(source, 1 + i))
            store_i64(counts, start + i, load_i64(source, 1 + room + i))
        start += found
