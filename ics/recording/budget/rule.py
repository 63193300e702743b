"""A limit on the share of training time that recording takes, and the rule that keeps it.

Costs are only known after measuring. So every instrument is measured the first time it is due. Three idle steps then
show what a step takes by itself; the time that a measured step took beyond that is the cost of recording. From then on
two things hold an instrument back:

- the *stretch*: only every k-th of its due steps counts, k a power of two, so that stretched schedules contain one
  another and instruments are still measured at the same steps. The instrument that takes the largest share of training
  time is stretched first, until the shares together are within the target;
- the *balance*: target times the training time so far, minus the recording time so far. What the balance does not
  cover waits for the next step that counts. So an expensive first measurement is paid back before anything follows.

Given the times, the rule is deterministic. It never looks at a loss or a parameter: training stays bit-identical, and
only which steps are measured depends on the machine. Costs are kept in plain steps, not in seconds: when the whole
machine slows down, both sides do, and nothing changes.

The rule counts what delays the training's own thread (and device). Work in another thread, such as encoding and
writing, counts only as far as it makes the steps slower.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import torch

from ics.errors import UsageError
from ics.recording.budget.costs import InstrumentCost, Parts, shared_out
from ics.recording.budget.stopwatch import Stopwatch

IDLE_STEPS = 3
_RECENT_STEPS = 9
_ROOM = 0.7  # a gap to the target: without it, noise in the costs would double and halve a stretch in turns


class Budget:
    """Chooses which of the due instruments to measure, so that recording stays under a share of training time.

    Call `start` and `stop` around every step, and `choose` once per step.

    Args:
        target: seconds of recording per second of training, between 0 and 1.
        in_the_pass: instruments that measure training's own passes; they are charged for the hooks.
        device: the device of the model; `Stopwatch` says how its time is measured.
        clock: returns seconds.

    Raises:
        UsageError: a target that is not between 0 and 1.

    Example:
        >>> now = 0.0
        >>> budget = Budget(0.02, clock=lambda: now)
        >>> measured = []
        >>> for step in range(1001):          # plain steps of 1 s; a measurement takes 1 s more, and is due at each
        ...     chosen = budget.choose(step, {"activations"})
        ...     measured += [step] if chosen else []
        ...     budget.start()
        ...     now += 1 + len(chosen)
        ...     budget.stop(chosen or None)
        >>> measured[:4], budget.describe()["stretch"]
        ([0, 128, 192, 256], [{'step': 4, 'activations': 64}])
    """

    def __init__(
        self,
        target: float,
        *,
        in_the_pass: frozenset[str] = frozenset(),
        device: torch.device | str = "cpu",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_target(target)
        self.clock = clock
        self.changed = False
        self._target = float(target)
        self._in_the_pass = in_the_pass
        self._watch = Stopwatch(torch.device(device), clock=clock)
        self._training = self._recording = 0.0
        self._idle: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._unpriced: list[tuple[float, frozenset[str], Parts, float]] = []
        self._unsettled = 0
        self._costs: dict[str, InstrumentCost] = {}
        self._stretched: list[dict[str, int]] = []

    def choose(self, step: int, due: Iterable[str]) -> frozenset[str]:
        """Return which of the instruments that are due by their own schedules to measure at this step."""
        due = frozenset(due)
        for name in due:
            self._costs.setdefault(name, InstrumentCost()).due(step)
        chosen = {name for name in due if self._costs[name].dues == 1}
        self._settle()
        if not due - chosen or self._unpriced or self._unsettled:  # what the last measurement took is not known yet
            return frozenset(chosen)
        self._plan(step)
        balance = self._target * self._training - self._recording
        # The cheapest first, so that one that the balance does not cover holds up no other; by name if costs are equal.
        for name in sorted(due - chosen, key=lambda name: (self._costs[name].cost, name)):
            one = self._costs[name]
            # Counted from its first due step, whatever was skipped: so stretched schedules contain one another.
            if (one.dues - 1) % one.stretch:
                continue
            cost = one.cost * self._plain_step
            one.waited += cost > balance
            if cost <= balance:
                chosen.add(name)
                balance -= cost
        return frozenset(chosen)

    def start(self) -> None:
        """Begin a step."""
        self._watch.start()

    def stop(self, measured: frozenset[str] | None, parts: Parts | None = None, *, recording: float = 0.0) -> None:
        """End a step.

        Args:
            measured: the instruments that were measured; None if the step was idle.
            parts: seconds of the host by instrument, as far as they are known; the rest of the cost is divided.
            recording: seconds of the host since the user's block ended, which are not part of a plain step.
        """
        self._unsettled += measured is not None
        # A host that runs ahead of a device may spend these seconds without delaying it: there they bound nothing.
        at_least = 0.0 if self._watch.on_device and measured is not None else recording
        self._watch.stop((measured, parts or {}, at_least))
        self._settle()

    def spend(self, seconds: float) -> None:
        """Add seconds that recording took outside the steps."""
        self._recording += seconds

    def forget(self, names: Iterable[str]) -> None:
        """Forget instruments that were switched off: they take no share from now on."""
        for name in names:
            self._costs.pop(name, None)

    def describe(self) -> dict[str, Any]:
        """Return the state of the budget for run.json, and reset `changed`."""
        self.changed = False
        return {
            "target": self._target,
            "spent": self._recording / self._training if self._training else None,
            "training_seconds": self._training,
            "recording_seconds": self._recording,
            "plain_step_seconds": self._plain_step if self._idle else None,
            "instruments": {
                name: {
                    "plain_steps_per_measurement": one.cost if one.costs else None,
                    "measured": one.measured,
                    "waited": one.waited,
                    "stretch": one.stretch,
                }
                for name, one in sorted(self._costs.items())
            },
            "stretch": list(self._stretched),
        }

    @property
    def _plain_step(self) -> float:
        # A median, so that one step that another program held up does not make all measurements look cheap.
        return median(self._idle)

    def _settle(self) -> None:
        for seconds, (measured, parts, recording) in self._watch.settled():
            if measured is not None:
                self._unsettled -= 1
                self._unpriced.append((seconds, measured, parts, recording))
                continue
            plain = max(seconds - recording, 0.0)
            self._idle.append(plain)
            self._training += plain
            self._recording += recording
        if len(self._idle) >= IDLE_STEPS:
            for step in self._unpriced:
                self._price(*step)
            self._unpriced.clear()

    def _price(self, seconds: float, measured: frozenset[str], parts: Parts, at_least: float) -> None:
        """Charge the instruments for what a measured step took beyond a plain one."""
        cost = min(max(seconds - self._plain_step, at_least, 0.0), seconds)
        self._recording += cost
        self._training += seconds - cost
        if self._plain_step <= 0:  # a clock that saw no time pass: costs in plain steps are not defined
            return
        once = min(parts.get(frozenset(), 0.0), cost)
        for name, share in shared_out(cost - once, measured, parts, in_the_pass=self._in_the_pass).items():
            self._costs[name].add(share / self._plain_step)

    def _plan(self, step: int) -> None:
        """Stretch the largest share while the shares exceed the target; relax the smallest if the target allows it."""
        costs, before = self._costs, {name: one.stretch for name, one in self._costs.items()}
        # Costs are in the order of sets of strings, which differs between processes. `fsum` and the sorting by name
        # make the plan independent of it.
        total = math.fsum(one.share(step) for one in costs.values())
        while total > self._target:
            largest = max(sorted(costs), key=lambda name: costs[name].share(step))
            costs[largest].stretch *= 2
            total = math.fsum(one.share(step) for one in costs.values())
        for name in sorted(costs, key=lambda name: (costs[name].share(step), name)):
            one = costs[name]
            while one.stretch > 1 and total + one.share(step) <= _ROOM * self._target:
                total += one.share(step)
                one.stretch //= 2
        now = {name: one.stretch for name, one in sorted(costs.items())}
        if now != before:
            self._stretched.append({"step": step} | {name: stretch for name, stretch in now.items() if stretch > 1})
            self.changed = True


def check_target(target: object) -> None:
    """Raise `UsageError` unless `target` is a share of training time, between 0 and 1."""
    if not isinstance(target, int | float) or not 0 < target < 1:
        raise UsageError(
            f"budget expects a share of training time between 0 and 1, got {target!r}; type budget=0.02 for 2 %"
        )
