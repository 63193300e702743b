"""What all measuring by a plan has in common: its hooks, and what ends it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from ics.probes.counted_passes import ForwardPasses, PassStart
from ics.probes.hooks import Hooks
from ics.probes.planned.batched_rows import PlanLostError

LOST = "the model did not do what it did at the steps before; it is followed in full from the next measured step on"
"""Why the rows of a step are null if its plan was lost."""


class PlannedStep(ABC):
    """Measures the passes of one step by a plan.

    Neither an error of ours nor a pass that differs from the planned one may end the training. Either ends the
    measuring: `failure` keeps the error, `lost` says that the pass differed, and the rows of that step are then null.
    A subclass raises `PlanLostError` wherever it finds a difference.

    Args:
        start: how a planned pass begins; None if nothing is planned.
    """

    def __init__(self, start: PassStart | None = None) -> None:
        self.forward = ForwardPasses()
        self._start = start
        self._given_up: set[int] = set()
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
                if self.forward.best < 0 and self.forward.modes:  # what was waited for did not come
                    raise PlanLostError
                self._finish_passes()
            except PlanLostError:
                self.lost = True
            except Exception as error:
                self.failure = error

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The hook after each planned module."""
        if self.lost or self.failure is not None or threading.get_ident() != self._thread:
            return
        try:
            self._take_call(module, args, output)
        except Exception as error:
            self._end(error)

    @abstractmethod
    def _take_call(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Measure a call of a planned module."""

    def _begins(self) -> bool:
        """Return whether the pass counts, as far as is known, of which the first planned call has just been made."""
        assert self._start is not None, "there is a planned call"
        mode, forward = self._start.mode_now(), self.forward
        if mode == forward.best:
            return True
        # Inference tensors have no version: what is written to them would not be found out.
        waits = mode in self._given_up or torch.is_inference_mode_enabled() or self._waits(mode)
        if mode < forward.best or waits:
            forward.pass_over(mode)
            return False
        if forward.best >= 0:
            self._forget()
        forward.begin(self._start.root, mode)
        return True

    @abstractmethod
    def _waits(self, mode: int) -> bool:
        """Return whether a pass in this mode cannot be measured by the plan: one that can may follow."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop everything so far: it was of passes that do not count."""

    @abstractmethod
    def _finish_passes(self) -> None:
        """Measure what is left; raise `PlanLostError` if a pass was not seen to its end."""

    def _end(self, error: Exception) -> None:
        """End the measuring of this step, or of a pass beside those that were planned."""
        mode = self.forward.best
        if isinstance(error, PlanLostError) and self._start is not None and 0 <= mode < self._start.mode:
            self._given_up.add(mode)
            self.forward.give_up()
            self._forget()
        elif isinstance(error, PlanLostError):
            self.lost = True
        else:
            self.failure = error
