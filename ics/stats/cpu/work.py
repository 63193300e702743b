"""Compiles the kernels of this folder, or finds them on disk, as C functions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numba

from ics import buckets
from ics.stats.cpu import jobs, normalization, pooling, vectors


class Work(NamedTuple):
    """Addresses of the compiled functions.

    Attributes:
        take_jobs: what each thread runs of a request.
        finish: what one of them runs after that.
        together: what one thread runs of several requests, see `jobs.measure_together`.
        pool: (address, channels, address), see `pooling.pool_packed`.
        squares: (address, n) -> float64, see `vectors.sum_of_squares`.
        differences: (address, address, n) -> float64, see `vectors.sum_of_squared_differences`.
        products: (address, address, n, address), see `vectors.inner_products`.
        take_normalization: what each thread runs of a request of `normalization`.
        finish_normalization: what one of them runs after that.
        compiled: what they were compiled from.
    """

    take_jobs: int
    finish: int
    together: int
    pool: int
    squares: int
    differences: int
    products: int
    take_normalization: int
    finish_normalization: int
    compiled: tuple[Any, ...]  # the code lives as long as these do


def compile_work(*, cache: bool) -> Work:
    """Compile the functions, or read them from numba's cache on disk.

    numba only looks whether the file of the function itself has changed. So a digest of all files that make the code
    is among what they close over, which is part of the key.
    """
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(buckets.__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    def take_jobs(request: int) -> None:
        digest  # noqa: B018
        jobs.take_jobs(request)

    def finish(request: int) -> None:
        digest  # noqa: B018
        jobs.finish(request)

    def together(requests: int, count: int, bases: int, epsilons: int, pooled: int) -> None:
        digest  # noqa: B018
        jobs.measure_together(requests, count, bases, epsilons, pooled)

    def pool(packed: int, channels: int, out: int) -> None:
        digest  # noqa: B018
        pooling.pool_packed(packed, channels, out)

    def squares(values: int, n: int) -> float:
        digest  # noqa: B018
        return vectors.sum_of_squares(values, n)

    def differences(first: int, second: int, n: int) -> float:
        digest  # noqa: B018
        return vectors.sum_of_squared_differences(first, second, n)

    def products(first: int, second: int, n: int, out: int) -> None:
        digest  # noqa: B018
        vectors.inner_products(first, second, n, out)

    def take_normalization(request: int) -> None:
        digest  # noqa: B018
        normalization.take_jobs(request)

    def finish_normalization(request: int) -> None:
        digest  # noqa: B018
        normalization.finish(request)

    compile_one: Any = numba.cfunc("void(int64)", cache=cache, error_model="numpy")
    compile_together: Any = numba.cfunc("void(int64, int64, int64, int64, int64)", cache=cache, error_model="numpy")
    compile_pool: Any = numba.cfunc("void(int64, int64, int64)", cache=cache, error_model="numpy")
    compile_many: Any = numba.cfunc("void(int64, int64, int64, int64)", cache=cache, error_model="numpy")
    compile_sum: Any = numba.cfunc("float64(int64, int64)", cache=cache, error_model="numpy")
    compile_sum_of_two: Any = numba.cfunc("float64(int64, int64, int64)", cache=cache, error_model="numpy")
    compiled = {
        "take_jobs": compile_one(take_jobs),
        "finish": compile_one(finish),
        "together": compile_together(together),
        "pool": compile_pool(pool),
        "squares": compile_sum(squares),
        "differences": compile_sum_of_two(differences),
        "products": compile_many(products),
        "take_normalization": compile_one(take_normalization),
        "finish_normalization": compile_one(finish_normalization),
    }
    addresses = {name: each.address for name, each in compiled.items()}
    return Work(**addresses, compiled=tuple(compiled.values()))
