"""Which way `reduce` measures tensors of a device, and why that one.

- `fused` on a CPU: kernels compiled by numba, which read memory once; for float32, bfloat16 and
  float16. They are compiled when first used, in some seconds, and kept on disk by numba (beside the package, or in the
  user's cache folder where that cannot be written).
- `fused` on a GPU: one graph by torch.compile, which inductor keeps on disk. Only on request: it is tested on a CPU,
  where it is slower than the kernels, and its speed on a GPU has not been measured.
- `eager`: separate torch operations; everywhere, and whatever the fused ones do not take.

"auto" takes fused on a CPU where it can be had, else eager. What a user should know (kernels are being compiled, or
cannot be had) is said once, by the logger "ics" at level WARNING, which Python prints to stderr unless told otherwise.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

from torch import Tensor

from ics.errors import UsageError
from ics.stats.layout import Affine

Asymptotes = tuple[float, float] | None
Way = Callable[[Tensor, int, Asymptotes, Affine | None, int | None], tuple[Tensor, Tensor | None] | None]


class Backend(NamedTuple):
    """The way taken for a type of device: "fused" or "eager", and why."""

    name: str
    reason: str


_CHOICES = ("auto", "fused", "eager")
_logger = logging.getLogger("ics")
_lock = threading.RLock()
_choice = "auto"
_ways: dict[str, tuple[Way | None, Backend]] = {}  # by type of device, once it is known
_compiled: dict[str, Way | str] = {}  # the fused ways, or why there is none; never made twice


def use_backend(name: Literal["auto", "fused", "eager"]) -> None:
    """Choose how `reduce` measures from now on, in this process.

    "fused" where there is no such backend is eager with a message, as is "auto" on a CPU.

    Raises:
        UsageError: there is no such backend.

    Example:
        >>> use_backend("eager")
        >>> backend()
        Backend(name='eager', reason='chosen by use_backend')
        >>> use_backend("auto")
    """
    global _choice
    if name not in _CHOICES:
        raise UsageError(
            f'the backend must be "auto", "fused" or "eager", but {name!r} came; type stats.use_backend("auto")'
        )
    with _lock:
        _choice = name
        _ways.clear()


def backend(device: str = "cpu") -> Backend:
    """Return the way that `reduce` takes for tensors of a type of device ("cpu", "cuda"), and why.

    The first call compiles the kernels if they are not on disk.

    Example:
        >>> backend("meta").name
        'eager'
    """
    fused_way(device)
    return _ways[device][1]


def fused_way(device: str) -> Way | None:
    """Return the fused backend for a type of device, None for eager. It returns None for tensors it does not take."""
    found = _ways.get(device)
    if found is None:
        with _lock:
            found = _ways[device] = _decide(device)
    return found[0]


def _decide(device: str) -> tuple[Way | None, Backend]:
    if _choice == "eager":
        return None, Backend("eager", "chosen by use_backend")
    make = _MAKERS.get(device)
    if make is None:
        return None, Backend("eager", f"there is no fused backend for device {device}")
    if _choice == "auto" and device != "cpu":
        return None, Backend("eager", f'on device {device} the fused one is taken on request: use_backend("fused")')
    if device not in _compiled:
        _compiled[device] = _tried(make, device)
    way = _compiled[device]
    if isinstance(way, str):
        return None, Backend("eager", way)
    return way, Backend("fused", "chosen by use_backend" if _choice == "fused" else "kernels compiled by numba")


def _tried(make: Callable[[], Way], device: str) -> Way | str:
    """Return the fused backend, or why there is none: whatever goes wrong in a compiler, measuring goes on."""
    try:
        return make()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        if missing:
            reason = "numba is not installed"
        advice = "pip install numba" if missing else 'ics.stats.use_backend("eager")'
        _logger.warning(
            "ics: statistics on %s are taken by separate torch operations, which is slower (%s). Type %s%s.",
            *(device, reason, advice, "" if missing else " to choose that without this message"),
        )
        return reason


def _make_cpu() -> Way:
    from ics.stats.cpu import backend as kernels

    return kernels.backend(announce)


def _make_cuda() -> Way:
    from ics.stats import compiled_graph

    return compiled_graph.backend(announce)


@lru_cache
def announce(sentence: str) -> None:
    """Say a sentence, once in a process."""
    _logger.warning("ics: %s", sentence)


_MAKERS: dict[str, Callable[[], Way]] = {"cpu": _make_cpu, "cuda": _make_cuda}
