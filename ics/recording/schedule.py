"""When to measure: a schedule is a value that answers `due(step)` and prints as the call that makes it.

run.json stores the printed form and `parse_schedule` reads it back, so a stored configuration can be run again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from ics.errors import UsageError


@runtime_checkable
class Schedule(Protocol):
    """Anything with `due(step) -> bool`; its `str` is stored in run.json."""

    def due(self, step: int) -> bool:
        """Return whether to measure at `step` (optimizer steps, from 0)."""
        ...


@dataclass(frozen=True)
class Every:
    """Due at `start`, `start + n`, `start + 2n`, ..."""

    n: int
    start: int = 0

    def due(self, step: int) -> bool:
        """Return whether `step` is `start` plus a multiple of `n`."""
        return step >= self.start and (step - self.start) % self.n == 0

    def __str__(self) -> str:
        return f"every({self.n})" if self.start == 0 else f"every({self.n}, start={self.start})"


@dataclass(frozen=True)
class LogSpaced:
    """Due at step 0 and at `num` steps spread evenly on a logarithmic axis from 1 to `until`."""

    num: int
    until: int

    @cached_property  # asked at every step of the training; it bypasses `frozen`, as it writes to `__dict__`
    def steps(self) -> frozenset[int]:
        """The steps that are due; fewer than `num` + 1 if several round to the same whole step."""
        # A logarithmic axis has no 0, but the initialisation should be measured too.
        exponents = (i / max(self.num - 1, 1) for i in range(self.num))
        return frozenset({0, *(round(self.until**exponent) for exponent in exponents)})

    def due(self, step: int) -> bool:
        """Return whether `step` is one of `steps`."""
        return step in self.steps

    def __str__(self) -> str:
        return f"log_spaced({self.num}, until={self.until})"


@dataclass(frozen=True)
class At:
    """Due at the steps listed."""

    steps: frozenset[int]

    def due(self, step: int) -> bool:
        """Return whether `step` is one of `steps`."""
        return step in self.steps

    def __str__(self) -> str:
        return f"at({sorted(self.steps)})"


def every(n: int, *, start: int = 0) -> Every:
    """Measure at every n-th step, the first at `start`.

    Example:
        >>> [step for step in range(25) if every(10).due(step)]
        [0, 10, 20]
    """
    if not _is_count(n) or n < 1:
        raise UsageError(f"every(n) expects a whole number of steps >= 1, got {n!r}; type e.g. ics.every(10)")
    if not _is_count(start) or start < 0:
        raise UsageError(f"every(n, start=) expects a step >= 0, got {start!r}; type e.g. ics.every(10, start=100)")
    return Every(n, start)


def log_spaced(num: int, *, until: int = 100_000) -> LogSpaced:
    """Measure at step 0 and at `num` steps spread evenly on a logarithmic axis from 1 to `until`.

    Set `until` to the length of the training to have the last measurement near its end.

    Example:
        >>> sorted(log_spaced(5, until=10_000).steps)
        [0, 1, 10, 100, 1000, 10000]
    """
    if not _is_count(num) or num < 1:
        raise UsageError(f"log_spaced(num) expects a number of measurements >= 1, got {num!r}")
    if not _is_count(until) or until < 1:
        raise UsageError(f"log_spaced(num, until=) expects a last step >= 1, got {until!r}")
    return LogSpaced(num, until)


def at(steps: Iterable[int]) -> At:
    """Measure at the steps listed.

    Example:
        >>> [step for step in range(25) if at([3, 20]).due(step)]
        [3, 20]
    """
    chosen = frozenset(steps)
    wrong = [step for step in chosen if not _is_count(step) or step < 0]
    if wrong:
        raise UsageError(f"at(steps) expects steps >= 0, got {wrong[0]!r}; type e.g. ics.at([0, 100, 1000])")
    return At(chosen)


def parse_schedule(text: str) -> Schedule:
    """Return the schedule that prints as `text`; a bare number n means `every(n)`.

    Example:
        >>> parse_schedule("every(10)"), parse_schedule("25"), parse_schedule("at([0, 5])").due(5)
        (Every(n=10, start=0), Every(n=25, start=0), True)
        >>> parse_schedule("log_spaced(40, until=1000)")
        LogSpaced(num=40, until=1000)
    """
    text = text.strip()
    if re.fullmatch(r"\d+", text):
        return every(int(text))
    found = re.fullmatch(r"(every|log_spaced)\((\d+)(?:,\s*(start|until)=(\d+))?\)", text)
    if found and (found[3] is None or (found[1], found[3]) in {("every", "start"), ("log_spaced", "until")}):
        make = every if found[1] == "every" else log_spaced
        return make(int(found[2]), **({found[3]: int(found[4])} if found[3] else {}))
    if re.fullmatch(r"at\(\[[\d,\s]*\]\)", text):
        return at(int(number) for number in re.findall(r"\d+", text))
    raise UsageError(
        f"a schedule is written every(10), log_spaced(40, until=1000), at([0, 100]) or a plain number, got {text!r}"
    )


def as_schedule(value: Schedule | int | str) -> Schedule:
    """Return `value` as a schedule: itself, `every(n)` for a whole number, or parsed from its text."""
    if isinstance(value, str):
        return parse_schedule(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return every(value)
    if isinstance(value, Schedule):
        return value
    raise UsageError(f"expected a schedule, got {type(value).__name__}; type e.g. ics.every(10)")


def _is_count(value: object) -> bool:
    # Python's bool is an int: `every(True)` would pass as `every(1)`.
    return isinstance(value, int) and not isinstance(value, bool)
