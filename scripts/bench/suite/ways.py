"""A way to take a training step: plain, recorded by `ics`, or with another tool; and all of them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from scripts.bench.suite.nets import Training

Step = Callable[[], None]


def nothing() -> None:
    """Wait for nothing: all is on disk after each step."""


class Running(NamedTuple):
    """A training under way.

    Attributes:
        step: trains once.
        settle: waits until what was handed over to be written is on disk.
    """

    step: Step
    settle: Callable[[], None] = nothing


Start = Callable[[Training], AbstractContextManager[Running]]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to take a training step.

    Attributes:
        label: its name in tables and figures.
        records: which statistics of which tensors.
        start: `with start(training) as running:` attaches what it needs; at the end of the block everything is on disk.
        kind: who records.
        interval: steps per record; 0 where nothing is recorded.
        within: the way of `ics` that records all that this one does, in the same run and more; "" where there is none.
        package: distribution whose version is told; "" where it takes none.
        use: how it is used here, and where that differs from its documentation's first example, why.
        pause: seconds to leave, outside the clock, to a process of the tool's own that cannot be waited for.
        left_out: net to the reason why it is not tried there.
    """

    label: str
    records: str
    start: Start
    kind: Literal["plain", "ics", "rival"] = "rival"
    interval: int = 1
    within: str = ""
    package: str = ""
    use: str = ""
    pause: float = 0.0
    left_out: Mapping[str, str] = field(default_factory=dict)
