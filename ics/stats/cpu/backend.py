"""The kernels of `ics.stats.cpu` as a backend of `reduce`: memory layouts, requests and threads.

A kernel reads any tensor without gaps in the order of its memory, channels_last and transposed ones included; others
are copied first. Large tensors are shared by as many threads as torch uses (`ics.stats.parallel`).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ics.buckets import NUM_BUCKETS
from ics.stats.cpu.accumulators import NUM_ROWS, WIDTH
from ics.stats.cpu.compilation import CompiledKernels, compile_kernels
from ics.stats.cpu.jobs import REQUEST
from ics.stats.histogram import histogram, stride_of
from ics.stats.layout import Affine, axis_of, transformed
from ics.stats.moments import SATURATED_WITHIN
from ics.stats.parallel import Jobs

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_PART = 2**17  # values that are worth a part: another thread takes some microseconds to come
_MOST_PARTS = 16
_VALUES_PER_CHANNEL = 64  # in each part, or its accumulators would weigh as much as the values


class VectorKernels(NamedTuple):
    """The kernels of `ics.stats.cpu.vectors`, called with addresses and lengths."""

    squares: Callable[[int, int], float]
    differences: Callable[[int, int, int], float]
    products: Callable[[int, int, int, int], None]


class ParameterKernels(NamedTuple):
    """The kernels of `ics.stats.cpu.parameters`.

    Attributes:
        jobs: does the parts of an order and joins them.
        gather: (places, count, buckets, counts), called with addresses.
    """

    jobs: Jobs
    gather: Callable[[int, int, int, int], None]

    def run(self, parts: np.ndarray, tensors: np.ndarray, *, worth: int) -> None:
        """Do all parts, then what joins them; rows of int64. `worth` is how many threads the work is worth."""
        order = (ctypes.c_int64 * 5)(0, len(parts), parts.ctypes.data, len(tensors), tensors.ctypes.data)
        self.jobs.run(order, worth)


class MemoryPlan(NamedTuple):
    """How the kernels read tensors of one layout."""

    memory: tuple[int, int, int]  # outer, channels, inner in the order of memory
    parts: int
    taken: int  # values in the histogram
    # stride, inner, by_outer, by_channel, by_inner; None where no walk through memory takes the values in logical order
    logical: tuple[int, int, int, int, int] | None


def backend(announce: Callable[[str], None]) -> Callable[..., tuple[Tensor, Tensor | None] | None]:
    """Return the backend; it returns None for tensors that it does not take.

    Args:
        announce: told, in a sentence, that kernels are about to be compiled.
    """
    kernels = Kernels(compile_kernels(announce))

    def reduce_fused(
        x: Tensor, axis: int, saturation: tuple[float, float] | None, affine: Affine | None, limit: int | None
    ) -> tuple[Tensor, Tensor | None] | None:
        kind = KINDS.get(x.dtype)
        if kind is None or x.layout is not torch.strided or x.is_neg():
            return None
        plan = plan_of(x.shape, x.stride(), axis, limit)
        # Memory with gaps (a slice), or with one value in several places (an expanded tensor): measured on a copy.
        if plan is None:
            x = x.detach().contiguous()
            plan = plan_of(x.shape, x.stride(), axis, limit)
        if plan is None or not x.data_ptr():  # no values, or a wrapper (DTensor) that hides where they are
            return None
        return _measure(kernels.statistics, x, axis, kind, plan, saturation, affine, limit)

    # What else the kernels measure, see the modules of these names.
    # `backends.fused_way` hands out one object per device; the other kernels travel with it.
    for name in ("together", "pool", "vectors", "normalization", "parameters"):
        setattr(reduce_fused, name, getattr(kernels, name))
    return reduce_fused


def _measure(
    jobs: Jobs,
    x: Tensor,
    axis: int,
    kind: int,
    plan: MemoryPlan,
    saturation: tuple[float, float] | None,
    affine: Affine | None,
    limit: int | None,
) -> tuple[Tensor, Tensor | None]:
    outer, channels, inner = plan.memory
    moments = torch.empty((NUM_ROWS, channels), dtype=torch.float64, device="cpu")
    scratch = torch.empty(plan.parts * channels * WIDTH, dtype=torch.float64, device="cpu")
    counts = None
    if limit != 0 and plan.logical is not None:
        counts = torch.empty(NUM_BUCKETS, dtype=torch.int64, device="cpu")
    shifts = scales = 0
    if affine is not None:
        shift, scale = (part.detach().to("cpu", torch.float32).contiguous() for part in affine)
        shifts, scales = shift.data_ptr(), scale.data_ptr()
    low = high = 0.0
    if saturation is not None:
        margin = SATURATED_WITHIN * (saturation[1] - saturation[0])
        low, high = saturation[0] + margin, saturation[1] - margin
    request = ctypes.create_string_buffer(REQUEST.size)
    REQUEST.pack_into(
        request,
        0,
        x.data_ptr(),
        kind,
        outer,
        channels,
        inner,
        plan.parts,
        0,
        scratch.data_ptr(),
        moments.data_ptr(),
        0 if counts is None else counts.data_ptr(),
        plan.taken,
        *(plan.logical or (0, 0, 0, 0, 0)),
        shifts,
        scales,
        saturation is not None,
        low,
        high,
    )
    jobs.run(request, plan.parts)
    if limit != 0 and counts is None:
        counts = histogram(x if affine is None else transformed(x, axis, affine), max_values=limit)
    return moments, counts


@lru_cache(maxsize=1024)
def plan_of(shape: tuple[int, ...], strides: tuple[int, ...], axis: int, limit: int | None) -> MemoryPlan | None:
    """Return how to read a tensor, None if it has no values or memory has gaps, or holds a value in several places.

    Raises:
        UsageError: there is no such axis.
    """
    axis = axis_of(shape, axis)
    shape, strides = shape or (1,), strides or (1,)
    size, channels = math.prod(shape), shape[axis]
    order = sorted((i for i in range(len(shape)) if shape[i] > 1), key=lambda i: strides[i], reverse=True)
    inner = size
    for i in order:
        inner //= shape[i]
        if strides[i] != inner:
            return None
    if size == 0:
        return None
    inner = strides[axis] if channels > 1 else size
    memory = (size // (channels * inner), channels, inner)
    stride = 1 if limit == 0 else stride_of(size, limit)
    # By the shape alone, never by the number of threads: the order of additions, and with it every bit of the
    # result, must not depend on the machine.
    parts = max(1, min(_MOST_PARTS, size // _PART, size // (channels * _VALUES_PER_CHANNEL)))
    logical = _logical(shape, strides, axis, stride) if stride > 1 else (1, inner, channels * inner, inner, 1)
    return MemoryPlan(memory, parts, -(-size // stride), logical)


def _logical(
    shape: tuple[int, ...], strides: tuple[int, ...], axis: int, stride: int
) -> tuple[int, int, int, int, int] | None:
    by_outer, by_inner = _common(shape[:axis], strides[:axis]), _common(shape[axis + 1 :], strides[axis + 1 :])
    if by_outer is None or by_inner is None:
        return None
    inner = math.prod(shape[axis + 1 :])
    return stride, inner, by_outer, strides[axis] if shape[axis] > 1 else inner, by_inner


def _common(shape: tuple[int, ...], strides: tuple[int, ...]) -> int | None:
    """Return how far apart neighbours along several axes taken as one are; None if that is not the same everywhere."""
    axes = [(n, by) for n, by in zip(shape, strides, strict=True) if n > 1]
    if not axes:
        return 1
    last = by = axes[-1][1]
    for n, own in reversed(axes):
        if own != by:
            return None
        by *= n
    return last


class Kernels:
    """The compiled functions, as Python calls them."""

    def __init__(self, compiled: CompiledKernels) -> None:
        self.statistics = Jobs(compiled.take_jobs, compiled.finish)
        self.normalization = Jobs(compiled.take_normalization, compiled.finish_normalization)
        address = ctypes.c_int64
        self.together = ctypes.PYFUNCTYPE(None, *5 * (address,))(compiled.together)
        self.pool = ctypes.PYFUNCTYPE(None, *3 * (address,))(compiled.pool)
        self.vectors = VectorKernels(
            squares=ctypes.PYFUNCTYPE(ctypes.c_double, *2 * (address,))(compiled.squares),
            differences=ctypes.PYFUNCTYPE(ctypes.c_double, *3 * (address,))(compiled.differences),
            products=ctypes.PYFUNCTYPE(None, *4 * (address,))(compiled.products),
        )
        self.parameters = ParameterKernels(
            Jobs(compiled.take_parts, compiled.finish_parts),
            ctypes.PYFUNCTYPE(None, *4 * (address,))(compiled.gather),
        )
        self._compiled = compiled.compiled  # the code lives as long as these do
