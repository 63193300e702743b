"""Peak memory of a run, in a process of its own, so that what other runs left behind does not count."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ics.errors import IcsError, UsageError
from ics.experiments.benchmarking.timing import synchronise


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory of a run in a process of its own, in bytes.

    Attributes:
        held: peak before it: interpreter, libraries, what the preparation made (on CUDA: what is allocated then).
        peak: peak after it.
    """

    held: int
    peak: int

    @property
    def added(self) -> int:
        """The part of the peak that the run added."""
        return self.peak - self.held


def peak_memory(prepare: Callable[[], Callable[[], Any]], *, device: torch.device | str = "cpu") -> Memory:
    """Return the peak memory of `prepare()()`, run in a fresh process; what `prepare()` itself takes is `held`.

    On the CPU it is the largest resident set (on Linux VmHWM, which, unlike `ru_maxrss`, does not start at the size of
    the parent process). On CUDA it is `torch.cuda.max_memory_allocated`.

    Args:
        prepare: a function of a module, or `functools.partial` of one: it is sent to the other process by name.
        device: where it computes.

    Raises:
        UsageError: it failed; the message is that of its error.
    """
    # A forked process would start with all the memory of this one, and could not use CUDA.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (prepare, str(device), torch.get_num_threads(), sender)
    process = context.Process(target=_measure_memory, args=arguments, daemon=True)
    process.start()
    sender.close()  # else `recv` would wait for ever for a process that was killed
    try:
        found = receiver.recv()
    except EOFError:
        found = "it was killed, perhaps for want of memory"
    process.join()
    if isinstance(found, str):
        raise UsageError(f"the run whose memory was to be measured failed: {found}")
    return Memory(*found)


def _measure_memory(prepare: Callable[[], Callable[[], Any]], device: str, threads: int, sender: Connection) -> None:
    """Run in the other process: send (held, peak), or a sentence."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        run = prepare()
        held = _peak(device, held=True)
        run()
        synchronise(device)
        sender.send((held, _peak(device)))
    except Exception as error:
        sender.send(str(error) if isinstance(error, IcsError) else f"{type(error).__name__}: {error}")


def _peak(device: str, *, held: bool = False) -> int:
    if torch.device(device).type == "cuda":
        synchronise(device)
        return torch.cuda.memory_allocated(device) if held else torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
