"""Values of any of the three types, shifted and scaled where asked, as float32 in a buffer that stays in the cache."""

# mypy: ignore-errors
# (numba finds the types of these functions by itself.)

from __future__ import annotations

import numpy as np

from ics.stats.cpu.native import (
    add,
    bits_of,
    both,
    differ,
    float_of,
    is_less,
    kernel,
    load_f32,
    load_i32,
    load_u16,
    shift_left,
    store_f32,
    store_i32,
)

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2

_I32 = np.int32
_SIGN, _MAGNITUDE, _INFINITY = _I32(0x8000), _I32(0x7FFF), _I32(0x7C00)  # of a float16
_SIXTEEN, _THIRTEEN, _INFINITY_32 = _I32(16), _I32(13), _I32(0x7F80_0000)
_TO_FLOAT32 = np.float32(2.0**112)  # between the two biases, 127 - 15; a product that also makes subnormals normal


@kernel
def stay(buffer):
    """Keep an array of float32 in memory until here.

    numba frees an array after the last use of its name, whoever still works with its address.
    """
    buffer[0] = np.float32(0)


@kernel
def load(kind, source, first, n, step, target):
    """Write n values, every `step`-th from the `first`, as float32 one after the other at address `target`."""
    if kind == FLOAT32:
        for i in range(n):
            store_i32(target, i, load_i32(source, first + i * step))
    elif kind == BFLOAT16:
        for i in range(n):
            store_i32(target, i, shift_left(load_u16(source, first + i * step), _SIXTEEN))
    else:
        for i in range(n):
            store_i32(target, i, _of_float16(load_u16(source, first + i * step)))


@kernel
def load_bits(kind, source, index):
    """Return the bits of one value as a float32."""
    if kind == FLOAT32:
        return load_i32(source, index)
    half = load_u16(source, index)
    return shift_left(half, _SIXTEEN) if kind == BFLOAT16 else _of_float16(half)


@kernel
def _of_float16(half):
    sign = shift_left(both(half, _SIGN), _SIXTEEN)
    magnitude = both(half, _MAGNITUDE)
    wide = shift_left(magnitude, _THIRTEEN)
    finite = bits_of(float_of(wide) * _TO_FLOAT32)
    special = differ(both(wide, _I32(0x007F_FFFF)), _INFINITY_32)
    return add(special if is_less(magnitude, _INFINITY) == 0 else finite, sign)


@kernel
def apply(values, n, shift, scale):
    """Replace each of n float32 by (x - shift) * scale."""
    for i in range(n):
        store_f32(values, i, (load_f32(values, i) - shift) * scale)


@kernel
def apply_each(values, n, shifts, scales):
    """Replace each of n float32 by (x - shift) * scale with a shift and a scale of its own."""
    for i in range(n):
        store_f32(values, i, (load_f32(values, i) - load_f32(shifts, i)) * load_f32(scales, i))
