"""Compiles the kernels of this package, or finds them on disk, as C functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
from numba.core import event

from ics import buckets, tensor_statistics
from ics.stats.cpu import accumulators, jobs, normalization, parameters, vectors


class CompiledKernels(NamedTuple):
    """Addresses of the compiled functions.

    Attributes:
        take_jobs: what each thread runs of a request.
        finish: what one of them runs after that.
        together: what one thread runs of several requests, see `jobs.measure_together`.
        pool: (address, channels, address), see `accumulators.pool_packed`.
        squares: (address, n) -> float64, see `vectors.sum_of_squares`.
        differences: (address, address, n) -> float64, see `vectors.sum_of_squared_differences`.
        products: (address, address, n, address), see `vectors.inner_products`.
        take_normalization: what each thread runs of a request of `normalization`.
        finish_normalization: what one of them runs after that.
        take_parts: what each thread runs of an order of `parameters`.
        finish_parts: what one of them runs after that.
        gather: (places, count, buckets, counts), see `parameters.gather_histograms`.
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
    take_parts: int
    finish_parts: int
    gather: int
    compiled: tuple[Any, ...]  # the code lives as long as these do


def compile_kernels(announce: Callable[[str], None]) -> CompiledKernels:
    """Compile the kernels, or read them from disk; `announce` is told, in a sentence, what a user should know."""
    with event.install_listener("numba:compile", _Announcement(announce)):
        try:
            return _compile(cache=True)
        except RuntimeError as error:  # how numba says that it finds no folder to write to
            if "cannot cache" not in str(error):
                raise
            announce("numba finds no folder for its cache that it can write to; set NUMBA_CACHE_DIR to one")
            return _compile(cache=False)


class _Announcement(event.Listener):
    """Tells once, as soon as numba compiles anything: with all on disk it does not."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce: Callable[[str], None] | None = announce

    def on_start(self, event: event.Event) -> None:
        if self._announce is not None:
            self._announce("compiling the kernels of the statistics for this machine, once; 5 to 20 seconds")
            self._announce = None

    def on_end(self, event: event.Event) -> None:
        pass


def _compile(*, cache: bool) -> CompiledKernels:
    # numba only looks whether the file of the function itself has changed. So a digest of all files that make the code
    # is among what the functions close over, which is part of the key of numba's cache.
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(buckets.__file__), Path(tensor_statistics.__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    compiled = _tensor_functions(digest, cache) | _vector_functions(digest, cache) | _parameter_functions(digest, cache)
    addresses = {name: each.address for name, each in compiled.items()}
    return CompiledKernels(**addresses, compiled=tuple(compiled.values()))


def _c_function(signature: str, cache: bool) -> Callable[[Callable[..., Any]], Any]:
    return numba.cfunc(signature, cache=cache, error_model="numpy")


def _tensor_functions(digest: str, cache: bool) -> dict[str, Any]:
    """What measures one tensor, or the tensors of one normalisation."""

    @_c_function("void(int64)", cache)
    def take_jobs(request: int) -> None:
        digest  # noqa: B018
        jobs.take_jobs(request)

    @_c_function("void(int64)", cache)
    def finish(request: int) -> None:
        digest  # noqa: B018
        jobs.finish(request)

    @_c_function("void(int64, int64, int64, int64, int64)", cache)
    def together(requests: int, count: int, bases: int, epsilons: int, pooled: int) -> None:
        digest  # noqa: B018
        jobs.measure_together(requests, count, bases, epsilons, pooled)

    @_c_function("void(int64, int64, int64)", cache)
    def pool(packed: int, channels: int, out: int) -> None:
        digest  # noqa: B018
        accumulators.pool_packed(packed, channels, out)

    @_c_function("void(int64)", cache)
    def take_normalization(request: int) -> None:
        digest  # noqa: B018
        normalization.take_jobs(request)

    @_c_function("void(int64)", cache)
    def finish_normalization(request: int) -> None:
        digest  # noqa: B018
        normalization.finish(request)

    return {
        "take_jobs": take_jobs,
        "finish": finish,
        "together": together,
        "pool": pool,
        "take_normalization": take_normalization,
        "finish_normalization": finish_normalization,
    }


def _vector_functions(digest: str, cache: bool) -> dict[str, Any]:
    """What measures lists of tensors as one vector."""

    @_c_function("float64(int64, int64)", cache)
    def squares(values: int, n: int) -> float:
        digest  # noqa: B018
        return vectors.sum_of_squares(values, n)

    @_c_function("float64(int64, int64, int64)", cache)
    def differences(first: int, second: int, n: int) -> float:
        digest  # noqa: B018
        return vectors.sum_of_squared_differences(first, second, n)

    @_c_function("void(int64, int64, int64, int64)", cache)
    def products(first: int, second: int, n: int, out: int) -> None:
        digest  # noqa: B018
        vectors.inner_products(first, second, n, out)

    return {"squares": squares, "differences": differences, "products": products}


def _parameter_functions(digest: str, cache: bool) -> dict[str, Any]:
    """What measures all parameters of a model, or their gradients."""

    @_c_function("void(int64)", cache)
    def take_parts(order: int) -> None:
        digest  # noqa: B018
        parameters.take_parts(order)

    @_c_function("void(int64)", cache)
    def finish_parts(order: int) -> None:
        digest  # noqa: B018
        parameters.finish(order)

    @_c_function("void(int64, int64, int64, int64)", cache)
    def gather(places: int, count: int, numbers: int, counts: int) -> None:
        digest  # noqa: B018
        parameters.gather_histograms(places, count, numbers, counts)

    return {"take_parts": take_parts, "finish_parts": finish_parts, "gather": gather}
