"""The accumulators of a channel: what they hold, how two of them join, and how channels pool.

An accumulator is WIDTH doubles: the rows of `ics.tensor_statistics`, but with the sums of (x - mean)^2, ^3 and ^4 in
place of the moments, which is what joins exactly. Sources: Chan, Golub & LeVeque 1979; Pebay 2008, eq. 3.1.
"""

# mypy: ignore-errors
# (numba finds the types of these functions by itself.)

from __future__ import annotations

import numpy as np

from ics.stats.cpu.native import kernel, load_f64, store_f64
from ics.tensor_statistics import FIRST_SUM, PACKED_ROWS

NUM_ROWS = len(PACKED_ROWS)
WIDTH = NUM_ROWS + 1  # doubles of a channel's accumulator; the last is free for whoever sums something of their own
COUNT, MEAN, M2, M3, M4 = map(PACKED_ROWS.index, ("count", "mean", "m2", "m3", "m4"))
MINIMUM, MAXIMUM = map(PACKED_ROWS.index, ("minimum", "maximum"))
ZERO, NEGATIVE = map(PACKED_ROWS.index, ("zero_count", "negative_count"))
SATURATED, NONFINITE = map(PACKED_ROWS.index, ("saturated_count", "nonfinite_count"))


@kernel
def join_channel(into, other):
    """Join one accumulator to another."""
    n = load_f64(other, COUNT)
    if n > 0:
        m2, m3, m4 = load_f64(other, M2), load_f64(other, M3), load_f64(other, M4)
        join(into, n, load_f64(other, MEAN), m2, m3, m4, load_f64(other, MINIMUM), load_f64(other, MAXIMUM))
    for row in range(FIRST_SUM, NUM_ROWS):
        store_f64(into, row, load_f64(into, row) + load_f64(other, row))


@kernel
def join(into, n, mean, m2, m3, m4, low, high):
    """Join n values to an accumulator, given their mean, their sums of (x - mean)^2, ^3 and ^4, and their extrema."""
    before = load_f64(into, COUNT)
    if before > 0:
        own, own2, own3 = load_f64(into, MEAN), load_f64(into, M2), load_f64(into, M3)
        count = before + n
        d = mean - own
        share = d / count
        across = d * share * before * n
        between = across * share * share * (before * before - before * n + n * n)
        within = 6 * share * share * (before * before * m2 + n * n * own2) + 4 * share * (before * m3 - n * own3)
        m4 += load_f64(into, M4) + between + within
        m3 += own3 + across * share * (before - n) + 3 * share * (before * m2 - n * own2)
        m2 += own2 + across
        mean = own + share * n
        low, high = min(low, load_f64(into, MINIMUM)), max(high, load_f64(into, MAXIMUM))
        n = count
    store_f64(into, COUNT, float(n))
    store_f64(into, MEAN, mean)
    store_f64(into, M2, m2)
    store_f64(into, M3, m3)
    store_f64(into, M4, m4)
    store_f64(into, MINIMUM, low)
    store_f64(into, MAXIMUM, high)


@kernel
def write_packed(accumulators, channels, has_asymptotes, out):
    """Write the packed statistics (rows, channels) from the accumulators of the channels."""
    for c in range(channels):
        into = accumulators + c * (8 * WIDTH)
        count = load_f64(into, COUNT)
        store_f64(out, c, count)
        for row in range(MEAN, FIRST_SUM):
            value = load_f64(into, row)
            if M2 <= row <= M4:
                value = value / count
            store_f64(out, row * channels + c, value if count > 0 else np.nan)
        for row in range(FIRST_SUM, NUM_ROWS):
            store_f64(out, row * channels + c, load_f64(into, row))
        # The count is 0 then, as nothing was compared; NaN says that it is undefined.
        if not has_asymptotes:
            store_f64(out, SATURATED * channels + c, np.nan)


@kernel
def pool_packed(packed, channels, out):
    """Write the packed statistics of all channels as one, (rows,), from those per channel, (rows, C).

    The formulas of `ics.stats.moments.combined`, in float64. Channels of no values have no part in it; of no values at
    all the real numbers are NaN. A count that is NaN (there are no asymptotes) stays so.

    Args:
        packed: address of (rows, C) float64.
        channels: C.
        out: address of a float64 for each row.
    """
    count = 0.0
    for c in range(channels):
        count += load_f64(packed, c)
    origin = 0.0  # the mean of some channel: of a constant tensor no rounding of the weights may show
    for c in range(channels):
        if load_f64(packed, c) > 0:
            origin = load_f64(packed, MEAN * channels + c)
    mean, low, high = origin, np.inf, -np.inf
    for c in range(channels):
        n = load_f64(packed, c)
        if n > 0:
            mean += n / count * (load_f64(packed, MEAN * channels + c) - origin)
            low = min(low, load_f64(packed, MINIMUM * channels + c))
            high = max(high, load_f64(packed, MAXIMUM * channels + c))
    m2, m3, m4 = 0.0, 0.0, 0.0
    for c in range(channels):
        n = load_f64(packed, c)
        if n > 0:
            weight, d = n / count, load_f64(packed, MEAN * channels + c) - mean
            own2, own3 = load_f64(packed, M2 * channels + c), load_f64(packed, M3 * channels + c)
            square = d * d
            m2 += weight * (own2 + square)
            m3 += weight * (own3 + d * (3 * own2 + square))
            m4 += weight * (load_f64(packed, M4 * channels + c) + d * (4 * own3 + d * (6 * own2 + square)))
    store_f64(out, COUNT, count)
    store_f64(out, MEAN, mean if count > 0 else np.nan)
    store_f64(out, M2, m2 if count > 0 else np.nan)
    store_f64(out, M3, m3 if count > 0 else np.nan)
    store_f64(out, M4, m4 if count > 0 else np.nan)
    store_f64(out, MINIMUM, low if count > 0 else np.nan)
    store_f64(out, MAXIMUM, high if count > 0 else np.nan)
    for row in range(FIRST_SUM, NUM_ROWS):
        total = 0.0
        for c in range(channels):
            total += load_f64(packed, row * channels + c)
        store_f64(out, row, total)
