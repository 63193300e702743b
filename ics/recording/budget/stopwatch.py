"""The seconds that steps take, measured without waiting for the device."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Stopwatch:
    """Times spans on a device and reports each one once its duration is known.

    On CUDA the host runs ahead of the device, so its clock shows how long launching took, and waiting for the device at
    every step would cost more than most measurements. So both ends of a span are marked by events in the stream, which
    the device timestamps when it reaches them. The span is the time in which the device did, or waited for, what was
    launched within. It is read later, when its events have passed. On other devices the host's clock is right.

    Args:
        device: the device of the model.
        clock: returns seconds; used on devices without events.
    """

    def __init__(self, device: torch.device, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.on_device = device.type == "cuda"
        self._device = device
        self._start: Any = None
        self._pending: deque[tuple[Any, Any, Any]] = deque()

    def start(self) -> None:
        """Begin a span; a span that was begun and not stopped is dropped."""
        self._start = self._mark()

    def stop(self, what: Any) -> None:
        """End the span; `settled` yields `what` with its duration."""
        self._pending.append((self._start, self._mark(), what))

    def settled(self) -> Iterator[tuple[float, Any]]:
        """Yield (seconds, what) of the spans whose duration is known by now, in order, each once."""
        # Asking whether an event has passed does not wait for it; reading the time before would raise.
        while self._pending and (not self.on_device or self._pending[0][1].query()):
            start, end, what = self._pending.popleft()
            yield (start.elapsed_time(end) / 1000 if self.on_device else end - start), what

    def _mark(self) -> Any:
        if not self.on_device:
            return self.clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
