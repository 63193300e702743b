"""Sums of squares and of products of float32 values, accumulated in float64, at the speed of memory."""

# mypy: ignore-errors
# (numba finds the types of these functions by itself.)

from __future__ import annotations

import numpy as np

from ics.stats.cpu.native import kernel, load_f32, store_f64

F64 = np.float64  # numba takes `float` of a float32 for a float32
_BLOCK = 4096  # values whose sum is one; sums of sums keep the rounding of many values from adding up


@kernel
def sum_of_squares(values, n):
    """Return the sum of x^2 over n float32 at an address."""
    total = 0.0
    for start in range(0, n, _BLOCK):
        own = 0.0
        for i in range(start, min(start + _BLOCK, n)):
            x = F64(load_f32(values, i))
            own += x * x
        total += own
    return total


@kernel
def sum_of_squared_differences(first, second, n):
    """Return the sum of (x - y)^2 over n float32 at two addresses, the differences rounded to float32."""
    total = 0.0
    for start in range(0, n, _BLOCK):
        own = 0.0
        for i in range(start, min(start + _BLOCK, n)):
            d = F64(load_f32(first, i) - load_f32(second, i))
            own += d * d
        total += own
    return total


@kernel
def inner_products(first, second, n, out):
    """Write the sums of x^2, y^2 and x y over n float32 at two addresses to an address: three float64."""
    xx, yy, xy = 0.0, 0.0, 0.0
    for start in range(0, n, _BLOCK):
        own_xx, own_yy, own_xy = 0.0, 0.0, 0.0
        for i in range(start, min(start + _BLOCK, n)):
            x, y = F64(load_f32(first, i)), F64(load_f32(second, i))
            own_xx += x * x
            own_yy += y * y
            own_xy += x * y
        xx, yy, xy = xx + own_xx, yy + own_yy, xy + own_xy
    store_f64(out, 0, xx)
    store_f64(out, 1, yy)
    store_f64(out, 2, xy)
