"""What all measuring by a plan has in common: its hooks, and what ends it."""

from __future__ import annotations

import threading
from typing import Any

from torch import nn

from ics.probes.hooks import Hooks
from ics.probes.planned.batched_rows import PlanLostError

LOST = "the model did not do what it did at the steps before; it is followed in full from the next measured step on"
"""Why the rows of a step are null if its plan was lost."""


class PlannedStep:
    """Measures the passes of one step by a plan.

    Neither an error of ours nor a pass that differs from the planned one may end the training. Either ends the
    measuring: `failure` keeps the error, `lost` says that the pass differed, and the rows of that step are then null.
    A subclass raises `PlanLostError` wherever it finds a difference.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.lost = False
        self.seen = False
        self._hooks = Hooks()
        self._thread = threading.get_ident()
        self._position = 0

    def detach(self) -> None:
        """Remove every hook; a pass that was not seen to its end is lost."""
        self._hooks.remove()
        if not self.lost and self.failure is None:
            try:
                self._finish_passes()
            except Exception as error:
                self._end(error)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The hook after each planned module."""
        if self.lost or self.failure is not None or threading.get_ident() != self._thread:
            return
        try:
            self._take_call(module, args, output)
        except Exception as error:
            self._end(error)

    def _take_call(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Measure a call of a planned module."""
        raise NotImplementedError

    def _finish_passes(self) -> None:
        """Measure what is left; raise `PlanLostError` if a pass was not seen to its end."""
        raise NotImplementedError

    def _end(self, error: Exception) -> None:
        """End the measuring of this step."""
        if isinstance(error, PlanLostError):
            self.lost = True
        else:
            self.failure = error
