"""The statistics of all channels together, from the packed statistics per channel."""

# mypy: ignore-errors
# (numba finds the types of these functions by itself.)

from __future__ import annotations

import numpy as np

from ics.stats.cpu.chunk import kernel
from ics.stats.cpu.native import load_f64, store_f64

ROWS = 11
_MEAN, _M2, _M3, _M4, _MINIMUM, _MAXIMUM, _COUNTS = range(1, 8)


@kernel
def pool_packed(packed, channels, out):
    """Write the packed statistics of all channels as one, (11,), from those per channel, (11, C).

    The formulas of `ics.stats.moments.combined`, in float64. Channels of no values have no part in it; of no values at
    all the real numbers are NaN. A count that is NaN (there are no asymptotes) stays so.

    Args:
        packed: address of (11, C) float64.
        channels: C.
        out: address of 11 float64.
    """
    count = 0.0
    for c in range(channels):
        count += load_f64(packed, c)
    origin = 0.0  # the mean of some channel: of a constant tensor no rounding of the weights may show
    for c in range(channels):
        if load_f64(packed, c) > 0:
            origin = load_f64(packed, _MEAN * channels + c)
    mean, low, high = origin, np.inf, -np.inf
    for c in range(channels):
        n = load_f64(packed, c)
        if n > 0:
            mean += n / count * (load_f64(packed, _MEAN * channels + c) - origin)
            low = min(low, load_f64(packed, _MINIMUM * channels + c))
            high = max(high, load_f64(packed, _MAXIMUM * channels + c))
    m2, m3, m4 = 0.0, 0.0, 0.0
    for c in range(channels):
        n = load_f64(packed, c)
        if n > 0:
            weight, d = n / count, load_f64(packed, _MEAN * channels + c) - mean
            own2, own3 = load_f64(packed, _M2 * channels + c), load_f64(packed, _M3 * channels + c)
            square = d * d
            m2 += weight * (own2 + square)
            m3 += weight * (own3 + d * (3 * own2 + square))
            m4 += weight * (load_f64(packed, _M4 * channels + c) + d * (4 * own3 + d * (6 * own2 + square)))
    _write(out, count, mean, m2, m3, m4, low, high)
    for row in range(_COUNTS, ROWS):
        total = 0.0
        for c in range(channels):
            total += load_f64(packed, row * channels + c)
        store_f64(out, row, total)


@kernel
def _write(out, count, mean, m2, m3, m4, low, high):
    store_f64(out, 0, count)
    store_f64(out, _MEAN, mean if count > 0 else np.nan)
    store_f64(out, _M2, m2 if count > 0 else np.nan)
    store_f64(out, _M3, m3 if count > 0 else np.nan)
    store_f64(out, _M4, m4 if count > 0 else np.nan)
    store_f64(out, _MINIMUM, low if count > 0 else np.nan)
    store_f64(out, _MAXIMUM, high if count > 0 else np.nan)
