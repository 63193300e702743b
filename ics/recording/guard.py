"""The guard: what goes wrong while measuring is told, and never reaches the user's code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any

from ics.errors import LossError, MeasurementWarning
from ics.recording.writing.buffer import RecordBuffer


class Guard:
    """Runs measurements of a training that must go on.

    Args:
        buffer: takes notes for run.json.
        scheduled: names of the instruments that are not switched off.
        switch_off: switches instruments off.
        strict: raise errors instead.
    """

    def __init__(
        self,
        buffer: RecordBuffer,
        scheduled: Collection[str],
        *,
        switch_off: Callable[[Iterable[str]], None],
        strict: bool,
    ) -> None:
        self._buffer, self._scheduled, self._switch_off, self._strict = buffer, scheduled, switch_off, strict
        self._told: set[str] = set()

    def run(self, step: int, instruments: Iterable[str], measure: Callable[[], Any]) -> Any:
        """Run a measurement; its error warns once and switches its instruments off, unless `strict`.

        What is said of a `loss_fn` at the first step is said of the set-up, when nothing is lost yet. A warning comes
        as an error only where the user made errors of warnings.
        """
        try:
            return measure()
        except Exception as error:
            # That the loss depends on no parameter may lie with what wraps the model, what it returns does not.
            at_first = step == 0 and isinstance(error, LossError) and "one number" in str(error)
            if self._strict or at_first or isinstance(error, MeasurementWarning):
                raise
            names = sorted(set(self._scheduled) & set(instruments))
            self._switch_off(names)
            what = f"{' and '.join(names)} switched off" if names else "a part of the measurement is missing"
            said = f"{type(error).__name__}: {error}"
            # An instrument fails once; what belongs to none may fail at every step.
            self.warn_once(f"{names} {said}", f"{what} at step {step}: {said}")
            return None

    def warn_once(self, what: str, text: str) -> None:
        """Warn and note, unless the same kind of thing was told before."""
        if what not in self._told:
            self._told.add(what)
            self.warn(text)

    def warn(self, text: str) -> None:
        """Warn, and put the sentence into run.json."""
        self._buffer.note(text)
        warnings.warn(text, MeasurementWarning, stacklevel=5)
