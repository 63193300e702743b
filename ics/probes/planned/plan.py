"""What a forward pass shows at which module, learned once, so that later passes are measured without asking again.

Following a pass (`ics.probes.following.tracker.Tracker`) costs a few Python calls for every module and every function.
On a small model that is more than the training step. Most models do the same at every step. So the pass that is
followed first is written down as a plan: which rows each module call gives, of its input or its output. Later passes
need one hook per module that gives rows. Each call is checked: it must be the one that is due, and its input the very
tensor that it was. Where that is not so, the plan is lost and passes are followed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ics.probes.counted_passes import PassStart
from ics.probes.following.tracker import Site
from ics.probes.planned.batched_rows import BatchLayout
from ics.probes.planned.calls import BatchedCall, ModuleCall, PlanActions, actions_of, batched_call
from ics.probes.structure.grouping import Grouping
from ics.records import Layer

SiteKey = tuple[str, int, str]


@dataclass(frozen=True)
class SitePlan:
    """What a forward pass shows of its sites.

    What is worked out later is kept here too, since the plan lives from step to step.

    Attributes:
        calls: the calls that give rows, in their order; every pass of a step repeats them.
        sites: the site of each row.
        reasons: why dL/d(site) of a row is null; None if it is not.
        order: names to the order in which they first gave rows.
        layers: the layers, by grouping.
        start: how a pass begins.
        keys: the columns that name the rows of a table, with the order they were made for, and the rows; made once.
        batch: the rows of values that are measured together at the end of a pass.
        gradient_batch: the same of gradients, at the end of a backward pass.
    """

    calls: tuple[ModuleCall, ...]
    sites: tuple[Site, ...]
    reasons: tuple[str | None, ...]
    order: Mapping[str, int]
    layers: Mapping[Grouping, tuple[Layer, ...]]
    start: PassStart
    keys: dict[str, tuple[Mapping[str, int], dict[str, list[Any]], list[int]]] = field(default_factory=dict)
    batch: BatchLayout = field(default_factory=BatchLayout)
    gradient_batch: BatchLayout = field(default_factory=BatchLayout)
    _actions: list[PlanActions] = field(default_factory=list)
    _batched_calls: list[BatchedCall | None] = field(default_factory=list)
    _modules: list[nn.Module] = field(default_factory=list)

    def actions(self, *, value: Callable[[Site], bool], gradient: Callable[[Site], bool]) -> PlanActions:
        """Return what is done at each call, given whose values and gradients are wanted: at every step the same."""
        if not self._actions:
            wanted = {"value": list(map(value, self.sites)), "gradient": list(map(gradient, self.sites))}
            self._actions.append(actions_of(self.calls, self.sites, **wanted))
        return self._actions[0]

    def batched_calls(self) -> list[BatchedCall | None]:
        """Return the calls at which nothing is measured at once, None for others; empty until that is known."""
        if not self._batched_calls and self.batch.is_settled and self._actions:
            calls = zip(self.calls, self._actions[0].calls, strict=True)
            self._batched_calls.extend(batched_call(call, actions, self.batch) for call, actions in calls)
        return self._batched_calls

    def modules(self) -> list[nn.Module]:
        """Return each module that gives rows once."""
        if not self._modules:
            self._modules.extend(dict.fromkeys(call.module for call in self.calls))
        return self._modules
