"""Compiles the kernels of `ics.stats.cpu.vector_batch`, or finds them on disk, as C functions."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import event

from ics import buckets
from ics.stats.cpu import vector_batch
from ics.stats.fused_cpu import _Announcement
from ics.stats.parallel import Jobs


class BatchKernels(NamedTuple):
    """The kernels, called with addresses.

    Attributes:
        jobs: does the parts of an order, see `vector_batch.take_parts`, and joins them.
        gather: (places, count, buckets, counts), see `vector_batch.gather_histograms`.
        compiled: what they were compiled from: the code lives as long as these do.
    """

    jobs: Jobs
    gather: Callable[[int, int, int, int], None]
    compiled: tuple[Any, ...]

    def run(self, parts: np.ndarray, tensors: np.ndarray, *, worth: int) -> None:
        """Do all parts, then what joins them; rows of int64. `worth` is how many threads the work is worth."""
        order = (ctypes.c_int64 * 5)(0, len(parts), parts.ctypes.data, len(tensors), tensors.ctypes.data)
        self.jobs.run(order, worth)


@lru_cache(maxsize=1)
def batch_kernels(announce: Callable[[str], None]) -> BatchKernels:
    """Return the kernels; `announce` is told, in a sentence, if they are to be compiled."""
    with event.install_listener("numba:compile", _Announcement(announce)):
        try:
            compiled = _compile(cache=True)
        except RuntimeError as error:  # how numba says that it finds no folder to write to
            if "cannot cache" not in str(error):
                raise
            compiled = _compile(cache=False)
    take, finish, gather = (each.address for each in compiled)
    return BatchKernels(Jobs(take, finish), ctypes.PYFUNCTYPE(None, *4 * (ctypes.c_int64,))(gather), compiled)


def _compile(*, cache: bool) -> tuple[Any, ...]:
    """As `ics.stats.cpu.work.compile_work`: the digest of all files that make the code is part of numba's key."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(buckets.__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    def take_parts(order: int) -> None:
        digest  # noqa: B018
        vector_batch.take_parts(order)

    def finish(order: int) -> None:
        digest  # noqa: B018
        vector_batch.finish(order)

    def gather(places: int, count: int, numbers: int, counts: int) -> None:
        digest  # noqa: B018
        vector_batch.gather_histograms(places, count, numbers, counts)

    compile_one: Any = numba.cfunc("void(int64)", cache=cache, error_model="numpy")
    compile_many: Any = numba.cfunc("void(int64, int64, int64, int64)", cache=cache, error_model="numpy")
    return compile_one(take_parts), compile_one(finish), compile_many(gather)
