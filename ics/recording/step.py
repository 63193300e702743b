"""The context manager around one optimizer step."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Protocol

from torch import Tensor

from ics import schema
from ics.errors import UsageError
from ics.recording.measuring.measured_step import Batch, MeasuredStep

_OURS = frozenset(schema.STEPS.column_names) - {"loss", "learning_rate"}


class StepOwner(Protocol):
    """What a step reports to: the recorder that made it."""

    def arm_step(self, measured: MeasuredStep) -> bool:
        """Arm a measured step and return whether it will be measured."""

    def disarm_step(
        self,
        measured: MeasuredStep,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Detach what was armed."""

    def finish_step(self, row: dict[str, Any], measured: MeasuredStep | None, batch: Batch) -> None:
        """Measure and record a step whose block ended without an error."""

    def abandon_step(self) -> None:
        """Forget a step whose block raised."""


class Step:
    """One optimizer step: enter it before the forward pass, leave it after `optimizer.step()`.

    Attributes:
        number: optimizer steps done before this one, from 0.
    """

    def __init__(self, owner: StepOwner, number: int, measured: MeasuredStep | None, batch: Batch) -> None:
        self.number = number
        self._owner = owner
        self._measured = measured
        self._batch = batch
        self._logged: dict[str, Any] = {}

    @property
    def measured(self) -> bool:
        """Whether any instrument is due at this step."""
        return self._measured is not None

    def log(self, **values: Tensor | float) -> None:
        """Store numbers in this step's row of the table `steps`, each in a column of its name.

        Tensors stay on the device until the next flush; nothing is synchronised.

        Raises:
            UsageError: a value that is not one number, or a name that the recorder writes itself.

        Example:
            >>> step.log(loss=loss, accuracy=0.93)   # doctest: +SKIP
        """
        for name, value in values.items():
            if name in _OURS:
                raise UsageError(f"step.log expects names of your own, got {name!r}, which the recorder writes itself")
            if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
                kept = value.detach().clone()
                self._logged[name] = kept.reshape(()) if kept.ndim else kept
            elif isinstance(value, int | float):
                self._logged[name] = float(value)
            else:
                shape = type(value).__name__
                if isinstance(value, Tensor):
                    shape = "a complex one" if value.is_complex() else f"shape {tuple(value.shape)}"
                raise UsageError(f"step.log expects one number for {name!r}, got {shape}; type e.g. {name}.mean()")

    def __enter__(self) -> Step:
        if self._measured is not None and not self._owner.arm_step(self._measured):
            self._measured = None
        # Taken after arming, and again before disarming: `duration` contains neither.
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        duration = time.perf_counter() - self._started
        if self._measured is not None:
            self._owner.disarm_step(self._measured, kind, error, traceback)
        if kind is not None:
            self._owner.abandon_step()
            return
        row = {"step": self.number, "duration": duration, "measured": self.measured}
        self._owner.finish_step(row | self._logged, self._measured, self._batch)
