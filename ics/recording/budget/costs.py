"""The cost of recording, by instrument, as far as it is known."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

_RECENT_COSTS = 15

Parts = Mapping[frozenset[str], float]
"""Seconds of the host, by the instruments that they served; the empty set stands for work done once."""


@dataclass
class InstrumentCost:
    """The cost of one instrument so far, and how far its schedule is stretched.

    Attributes:
        dues: how often it was due by its own schedule.
        last_due: the last step at which it was due; `interval` is the number of steps between the last two, None before
            the second.
        costs: cost of its last measurements, in plain steps. The second replaces the first, which includes work done
            once.
        measured: how often it was measured.
        waited: how often the balance did not cover it.
        stretch: only every `stretch`-th of its due steps counts.
    """

    dues: int = 0
    last_due: int = 0
    interval: int | None = None
    costs: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_COSTS))
    measured: int = 0
    waited: int = 0
    stretch: int = 1

    @property
    def cost(self) -> float:
        """Plain steps that a measurement takes; 0 while it is not known."""
        # A median, as one measurement that the machine held up would move a mean, and stretch the schedule, for long.
        return median(self.costs) if self.costs else 0.0

    def share(self, step: int) -> float:
        """Return the share of training time that it takes at its stretched schedule; 0 before it is due again.

        The first measurement counts in full. If it were left out, the other instruments could use the whole target, and
        the balance would never cover an expensive one. A schedule whose steps lie ever further apart, or that has
        ended, takes less and less.
        """
        if self.interval is None:
            return 0.0
        return self.cost / (max(self.interval, step - self.last_due) * self.stretch)

    def due(self, step: int) -> None:
        """Record that it is due."""
        self.interval = step - self.last_due if self.dues else None
        self.last_due = step
        self.dues += 1

    def add(self, cost: float) -> None:
        """Record the cost of a measurement, in plain steps."""
        if self.measured == 1:
            self.costs.clear()  # the first includes work done once, and would sway the median while there are few
        self.costs.append(cost)
        self.measured += 1


def shared_out(
    cost: float, measured: frozenset[str], parts: Parts, *, in_the_pass: frozenset[str] = frozenset()
) -> dict[str, float]:
    """Divide the cost of a measured step among its instruments.

    Each is charged the seconds of the host that served it; seconds that served several are divided equally. The rest is
    what the hooks took inside the passes and what was kept beforehand. The instruments `in_the_pass` are charged
    equal parts of it; if there are none, all instruments are. If the host's seconds exceed the cost (it ran ahead of a
    device), they are scaled down to it.

    Example:
        >>> parts = {frozenset({"activations", "gradients"}): 0.2, frozenset({"gradient_line"}): 0.5}
        >>> measured = frozenset({"activations", "gradients", "gradient_line"})
        >>> sorted(shared_out(1.0, measured, parts, in_the_pass=frozenset({"activations", "gradients"})).items())
        [('activations', 0.25), ('gradient_line', 0.5), ('gradients', 0.25)]
    """
    shares = dict.fromkeys(sorted(measured), 0.0)
    served = {names & measured: seconds for names, seconds in parts.items() if names & measured}
    scale = min(1.0, cost / math.fsum(served.values())) if math.fsum(served.values()) else 1.0
    for names, seconds in served.items():
        for name in names:
            shares[name] += scale * seconds / len(names)
    bearing = measured & in_the_pass or measured
    rest = max(cost - scale * math.fsum(served.values()), 0.0)
    for name in bearing:
        shares[name] += rest / len(bearing)
    return shares
