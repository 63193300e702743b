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
    load_nothing_new = getattr(os, "RTLD_NOLOAD", None)
    if load_nothing_new is None:
        return None
    try:
        start = ctypes.PyDLL("libgomp.so.1", mode=load_nothing_new).GOMP_parallel
    except (OSError, AttributeError):
        return None
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    return start
