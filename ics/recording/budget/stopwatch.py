"""Seconds that steps take, without making the device wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Stopwatch:
    """Times spans on a device; what a span took is told once it is known.

    On CUDA the host runs ahead of the device, so that its clock sees how long launching took; waiting for the device
    at every step would cost more than most measurements. Each end of a span is therefore marked by an event in the
    stream, which the device stamps when it comes by: the span is the time in which the device did, or waited for, what
    was launched within. Spans are asked for later, when their events have passed. Elsewhere the host's clock is right.

    Args:
        device: where the model computes.
        clock: returns seconds; used wherever there are no events.
    """

    def __init__(self, device: torch.device, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.on_device = device.type == "cuda"
        self._device = device
        self._start: Any = None
        self._pending: deque[tuple[Any, Any, Any]] = deque()

    def start(self) -> None:
        """Begin a span; one that was begun and not stopped is forgotten."""
        self._start = self._mark()

    def stop(self, what: Any) -> None:
        """End the span, of which `what` will be told."""
        self._pending.append((self._start, self._mark(), what))

    def settled(self) -> Iterator[tuple[float, Any]]:
        """Yield (seconds, what) of the spans that are known by now, in their order, each once."""
        while self._pending and (not self.on_device or self._pending[0][1].query()):
            start, end, what = self._pending.popleft()
            yield (start.elapsed_time(end) / 1000 if self.on_device else end - start), what

    def _mark(self) -> Any:
        if not self.on_device:
            return self.clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
