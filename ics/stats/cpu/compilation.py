"""Compiles the kernels of this package, or finds them on disk, as C functions."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
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
    """Read the kernels from disk, compiled before or now; `announce` is told, in a sentence, what a user should know.

    What numba compiles in a process and what it reads from disk differ in the last bits of their results. So another
    process compiles, and this one only reads: the first process on a machine then measures the same numbers as all
    that follow. Where no other process can be started, or nothing be written, it compiles for itself.
    """
    with event.install_listener("numba:compile", _Refusal()):
        try:
            return _compile(cache=True)
        except _NotOnDiskError:
            pass
        except RuntimeError as error:  # how numba says that it finds no folder to write to
            if "cannot cache" not in str(error):
                raise
            announce("numba finds no folder for its cache that it can write to; set NUMBA_CACHE_DIR to one")
    announce("compiling the kernels of the statistics for this machine, once; 5 to 20 seconds")
    return _compile(cache=_compiled_to_disk())


def _compiled_to_disk() -> bool:
    """Have another process compile the kernels; return whether they can be read now."""
    program = "from ics.stats.cpu.compilation import _compile; _compile(cache=True)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    except OSError:
        return False
    return done.returncode == 0


class _NotOnDiskError(Exception):
    """The kernels are not on disk."""


class _Refusal(event.Listener):
    """Stops numba as soon as it starts to compile anything: with all on disk it does not."""

    def on_start(self, event: event.Event) -> None:
        raise _NotOnDiskError

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
