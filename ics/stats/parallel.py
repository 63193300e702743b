"""Kernels whose work is cut into jobs, on one or more threads.

Where torch computes with GNU OpenMP these are torch's own, taken as compiled loops take them: the threads of another
pool would fight for the cores with these, which spin for a while after each operation. Elsewhere Python threads help,
as the kernels run without its lock.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch


class Jobs:
    """Two compiled functions that take the address of a request, which `run` calls.

    Args:
        take: address of what each thread runs: it takes one job after another, until none is left.
        finish: address of what one thread runs after that.
    """

    def __init__(self, take: int, finish: int) -> None:
        # Holding the interpreter's lock: waiting to get it back may take 5 ms, most tensors a fraction of that.
        locked, unlocked = ctypes.PYFUNCTYPE(None, ctypes.c_void_p), ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self._take, self._finish = locked(take), locked(finish)
        self._unlocked = unlocked(take)
        self._parallel = openmp()
        self._pool: ThreadPoolExecutor | None = None

    def run(self, request: ctypes.Array[Any], parts: int) -> None:
        """Return when the request is done; `parts` is the number of its jobs that are worth a thread."""
        helpers = min(parts, torch.get_num_threads()) - 1 if parts > 1 else 0
        if helpers == 0:
            self._take(request)
        elif self._parallel is not None:
            self._parallel(self._take, request, helpers + 1, 0)
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(thread_name_prefix="ics-stats")
            others = [self._pool.submit(self._unlocked, request) for _ in range(helpers)]
            self._unlocked(request)
            for other in others:
                other.result()
        self._finish(request)


def openmp() -> Callable[..., None] | None:
    """Return what GNU OpenMP starts a parallel region with, of the very library that torch has loaded, if it has."""
    start = _of_gnu_openmp("GOMP_parallel")
    if start is not None:
        start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        start.restype = None
    return start


def compute_alone() -> None:
    """Have the calling thread run torch's operations without helpers from now on; other threads keep theirs.

    A second thread that computes in parallel gets helpers of its own, and GNU OpenMP, which then counts more threads
    than cores, lets all of them sleep after each operation instead of waiting for the next. As long as that second
    thread lives, the steps of a small model take four times as long (3.6 and 15.7 ms for 16 layers of width 100 on two
    cores). Without GNU OpenMP it does nothing.
    """
    set_number = _of_gnu_openmp("omp_set_num_threads")
    if set_number is not None:
        torch.get_num_threads()  # torch sets the number of a new thread when it is first asked
        set_number(1)
        # MKL, which torch takes for square roots and products, has a number of its own, and torch's wheels hold it.
        set_number_of_mkl = _of_loaded(Path(torch.__file__).parent / "lib/libtorch_cpu.so", "MKL_Set_Num_Threads_Local")
        if set_number_of_mkl is not None:
            set_number_of_mkl(1)


def _of_gnu_openmp(name: str) -> Any:
    return _of_loaded("libgomp.so.1", name)


def _of_loaded(library: str | Path, name: str) -> Any:
    """Return a function of a library that this process has loaded; None if it has not, or the library lacks it."""
    load_nothing_new = getattr(os, "RTLD_NOLOAD", None)
    if load_nothing_new is None:
        return None
    try:
        return getattr(ctypes.PyDLL(str(library), mode=load_nothing_new), name)
    except (OSError, AttributeError):
        return None
