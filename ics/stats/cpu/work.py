"""Compiles the kernels of this folder, or finds them on disk, as C functions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numba

from ics import buckets
from ics.stats.cpu import jobs


class Work(NamedTuple):
    """Addresses of the compiled functions: what each thread runs, and what one runs after them. Both take a request."""

    take_jobs: int
    finish: int
    compiled: tuple[Any, ...]  # the code lives as long as these do


def compile_work(*, cache: bool) -> Work:
    """Compile both functions, or read them from numba's cache on disk.

    numba only looks whether the file of the function itself has changed. So a digest of all files that make the code
    is among what the two close over, which is part of the key.
    """
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(buckets.__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    def take_jobs(request: int) -> None:
        digest  # noqa: B018
        jobs.take_jobs(request)

    def finish(request: int) -> None:
        digest  # noqa: B018
        jobs.finish(request)

    compile_one: Any = numba.cfunc("void(int64)", cache=cache, error_model="numpy")
    first, last = compile_one(take_jobs), compile_one(finish)
    return Work(first.address, last.address, (first, last))
