"""Scalar operations on raw memory for the numba kernels: 32-bit integers stay 32 bits wide, and no index is checked.

numba widens int32 arithmetic to int64, which halves the width of a vector, and asks of each index of an array whether
it is negative. Here addresses and indices are int64, and every operation becomes one or two LLVM instructions.
"""

# mypy: ignore-errors
# (numba and llvmlite find the types here by themselves.)

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Sums may be reordered, which is what lets them be vectors. NaN, infinities and division stay what they are.
# Division by 0 gives what it gives in C, and no exception.
kernel = njit(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")

_ELEMENTS = {
    "i32": (types.int32, ir.IntType(32), 4),
    "i64": (types.int64, ir.IntType(64), 8),
    "f32": (types.float32, ir.FloatType(), 4),
    "f64": (types.float64, ir.DoubleType(), 8),
}


def _pointer(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    return builder.gep(builder.inttoptr(address, kind.as_pointer()), [index])


def _loader(name: str) -> Any:
    result, kind, size = _ELEMENTS[name]

    @intrinsic
    def load(context, address, index):
        def emit(context, builder, signature, values):
            return builder.load(_pointer(builder, *values, kind), align=size)

        return result(types.int64, types.int64), emit

    return load


def _storer(name: str) -> Any:
    element, kind, size = _ELEMENTS[name]

    @intrinsic
    def store(context, address, index, value):
        def emit(context, builder, signature, values):
            address, index, value = values
            builder.store(value, _pointer(builder, address, index, kind), align=size)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, element), emit

    return store


def _binary(operation: str) -> Any:
    """Return an operation on two int32 whose result is int32, as LLVM names it."""

    @intrinsic
    def apply(context, a, b):
        def emit(context, builder, signature, values):
            return getattr(builder, operation)(*values)

        return types.int32(types.int32, types.int32), emit

    return apply


def _comparison(operator: str) -> Any:
    """Return a comparison of two int32 that gives the int32 1 or 0."""

    @intrinsic
    def compare(context, a, b):
        def emit(context, builder, signature, values):
            return builder.zext(builder.icmp_signed(operator, *values), ir.IntType(32))

        return types.int32(types.int32, types.int32), emit

    return compare


def _extremum(operator: str) -> Any:
    @intrinsic
    def choose(context, a, b):
        def emit(context, builder, signature, values):
            return builder.select(builder.icmp_signed(operator, *values), *values)

        return types.int32(types.int32, types.int32), emit

    return choose


def _bits(source: str, target: str) -> Any:
    argument, _, _ = _ELEMENTS[source]
    result, kind, _ = _ELEMENTS[target]

    @intrinsic
    def cast(context, value):
        def emit(context, builder, signature, values):
            return builder.bitcast(values[0], kind)

        return result(argument), emit

    return cast


@intrinsic
def take_next(context, address):
    """Return the int64 at an address and add 1 to it, as one step that no other thread can come between."""

    def emit(context, builder, signature, values):
        kind = ir.IntType(64)
        return builder.atomic_rmw("add", builder.inttoptr(values[0], kind.as_pointer()), kind(1), "seq_cst")

    return types.int64(types.int64), emit


@intrinsic
def load_u16(context, address, index):
    """Return the 16 bits at an address as an int32."""

    def emit(context, builder, signature, values):
        half = builder.load(_pointer(builder, *values, ir.IntType(16)), align=2)
        return builder.zext(half, ir.IntType(32))

    return types.int32(types.int64, types.int64), emit


load_i32, load_i64 = _loader("i32"), _loader("i64")
load_f32, load_f64 = _loader("f32"), _loader("f64")
store_i32, store_i64, store_f32, store_f64 = _storer("i32"), _storer("i64"), _storer("f32"), _storer("f64")
add, sub, both, differ = _binary("add"), _binary("sub"), _binary("and_"), _binary("xor")
shift_left, shift_right = _binary("shl"), _binary("ashr")
is_less, smaller, larger = _comparison("<"), _extremum("<"), _extremum(">")
bits_of, float_of, double_of = _bits("f32", "i32"), _bits("i32", "f32"), _bits("i64", "f64")
bits_of_double = _bits("f64", "i64")
