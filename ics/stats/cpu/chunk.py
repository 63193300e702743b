"""The statistics of one chunk of values that lie one after the other, and how a chunk joins its channel.

A chunk stays in the first-level cache, so that reading it twice costs no memory: first the extent (sum, extrema,
classes), then power sums of z = (x - mean) / unit, with a power of two as unit so that no fourth power of a small
value underflows. Partial sums are float32 over at most `MOST` values; chunks join in float64 by Chan's formula.

The order of floats is that of their bits as integers, once those of negative numbers are turned around (`ordered`). So
extrema and classes need no comparison of floats, which NaN would make slow or wrong; NaN shows as an extremum.

A channel's accumulator is WIDTH doubles: n, mean, sums of (x - mean)^2, ^3, ^4, minimum, maximum, and the numbers of
values that are zero, negative, saturated and not finite. Sources: Chan, Golub & LeVeque 1979; Pebay 2008, eq. 3.1.
"""

# mypy: ignore-errors
# (numba finds the types of these functions by itself.)

from __future__ import annotations

import numpy as np
from numba import njit

from ics.stats.cpu.native import (
    add,
    bits_of_double,
    both,
    differ,
    double_of,
    float_of,
    is_less,
    larger,
    load_f32,
    load_f64,
    load_i32,
    shift_right,
    smaller,
    store_f64,
)

# Sums may be reordered, which is what lets them be vectors. NaN, infinities and division stay what they are.
# Division by 0 gives what it gives in C, and no exception.
kernel = njit(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")
MOST = 2048
WIDTH = 12

I32, F32 = np.int32, np.float32
MAGNITUDE = I32(0x7FFF_FFFF)
LARGEST = I32(0x7F7F_FFFF)  # the largest finite float, ordered
LOWEST = I32(-0x7F80_0000)  # the lowest finite float, ordered
ONE, MINUS_ONE, SIGN = I32(1), I32(-1), I32(31)
_EXPONENT = 0x7FF0_0000_0000_0000
_SMALLEST_UNIT, _LARGEST_UNIT = 2.0**-126, 2.0**126  # powers of two whose inverse float32 holds without loss


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
    if first < LOWEST or last > LARGEST:
        add_any(into, values, n, 1, near)
        return
    low, high = float(float_of(ordered(first))), float(float_of(ordered(last)))
    shift = middle(total, n, low, high)
    unit = unit_of(float(shift), low, high)
    inverse = F32(1.0 / unit)
    s1, s2, s3, s4 = F32(0), F32(0), F32(0), F32(0)
    if low < high:
        s1, s2, s3, s4 = _powers(values, n, inverse, -shift * inverse)
    saturated = _saturated(values, n, F32(near[1]), F32(near[2])) if near[0] else F32(0)
    add_sums(into, n, shift, unit, s1, s2, s3, s4, low, high, at_most_0 - negative, negative, saturated)


@kernel
def add_sums(into, n, shift, unit, s1, s2, s3, s4, low, high, zero, negative, saturated):
    """Join n finite values to a channel, from the sums of powers of z = (x - shift) / unit."""
    if low == high:  # no rounding of the sums may give a constant channel a spread
        _join(into, n, low, 0.0, 0.0, 0.0, low, high)
    else:
        over_n = 1.0 / n
        d, c2, c3, c4 = s1 * over_n, s2 * over_n, s3 * over_n, s4 * over_n
        dd, square = d * d, unit * unit
        c4 = max(c4 - d * (4 * c3 - d * (6 * c2 - 3 * dd)), 0.0)
        c3 = c3 - d * (3 * c2 - 2 * dd)
        c2 = max(c2 - dd, 0.0)
        _join(
            into, n, shift + d * unit, n * c2 * square, n * c3 * (square * unit), n * c4 * (square * square), low, high
        )
    _count(into, zero, negative, saturated, 0)


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
    _count(into, zero, negative, saturated, n - count)
    if count == 0:
        return
    mean, m2, m3, m4 = total / count, 0.0, 0.0, 0.0
    for i in range(n):
        if both(load_i32(values, i * step), MAGNITUDE) <= LARGEST:
            d = load_f32(values, i * step) - mean
            m2, m3, m4 = m2 + d * d, m3 + d * d * d, m4 + d * d * d * d
    if low == high:
        mean, m2, m3, m4 = low, 0.0, 0.0, 0.0
    _join(into, count, mean, m2, m3, m4, low, high)


@kernel
def join_channel(into, other):
    """Join one accumulator to another."""
    n = load_f64(other, 0)
    if n > 0:
        m2, m3, m4 = load_f64(other, 2), load_f64(other, 3), load_f64(other, 4)
        _join(into, n, load_f64(other, 1), m2, m3, m4, load_f64(other, 5), load_f64(other, 6))
    _count(into, load_f64(other, 7), load_f64(other, 8), load_f64(other, 9), load_f64(other, 10))


@kernel
def _join(into, n, mean, m2, m3, m4, low, high):
    before = load_f64(into, 0)
    if before > 0:
        own, own2, own3 = load_f64(into, 1), load_f64(into, 2), load_f64(into, 3)
        count = before + n
        d = mean - own
        share = d / count
        across = d * share * before * n
        between = across * share * share * (before * before - before * n + n * n)
        within = 6 * share * share * (before * before * m2 + n * n * own2) + 4 * share * (before * m3 - n * own3)
        m4 += load_f64(into, 4) + between + within
        m3 += own3 + across * share * (before - n) + 3 * share * (before * m2 - n * own2)
        m2 += own2 + across
        mean = own + share * n
        low, high = min(low, load_f64(into, 5)), max(high, load_f64(into, 6))
        n = count
    store_f64(into, 0, float(n))
    store_f64(into, 1, mean)
    store_f64(into, 2, m2)
    store_f64(into, 3, m3)
    store_f64(into, 4, m4)
    store_f64(into, 5, low)
    store_f64(into, 6, high)


@kernel
def _count(into, zero, negative, saturated, nonfinite):
    store_f64(into, 7, load_f64(into, 7) + zero)
    store_f64(into, 8, load_f64(into, 8) + negative)
    store_f64(into, 9, load_f64(into, 9) + saturated)
    store_f64(into, 10, load_f64(into, 10) + nonfinite)
