"""What a forward pass shows at which module, learned once, so that later passes are looked at without asking again.

Following a pass (`sites.Tracker`) costs a few Python calls for every module and every function; on a small model that
is more than the training step. Most models do the same at every step. So the pass that is followed first is written
down as a plan: which rows each module call gives, of its input or its output. Later passes need one hook per module
that gives rows. Each visit checks that it is the one that is due and that its input is the very tensor that it was;
where it is not, the plan is lost and passes are followed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ics.probes.following.tracker import Site
from ics.probes.planned.batched_rows import Deferral
from ics.probes.planned.steps import Look, Orders, Quick, Visit, orders_of, quick_visit
from ics.probes.structure.activations import is_activation
from ics.probes.structure.grouping import Grouping
from ics.probes.structure.tensors import TensorMap, first_tensor, version_of
from ics.records import Layer

SiteKey = tuple[str, int, str]


@dataclass(frozen=True)
class Plan:
    """What a forward pass shows.

    Attributes:
        visits: the calls that give rows, in their order; every pass of a step repeats them.
        sites: the site of each row.
        reasons: why dL/d(site) of a row is null; None if it is not.
        order: names to the order in which they first gave rows.
        layers: the layers, by grouping.
        keys: the columns that name the rows of a table, with the order they were made for, and the rows; made once.
        deferral: the rows that can be measured together at the end of a pass; found out once.
        gradient_deferral: the same of gradients, at the end of a backward pass.
        orders: what is done at each visit, once it has been worked out.
        quick: the same of visits at which nothing is measured at once, None for others; empty until that is known.
        modules: the modules that give rows, each once.
    """

    visits: tuple[Visit, ...]
    sites: tuple[Site, ...]
    reasons: tuple[str | None, ...]
    order: Mapping[str, int]
    layers: Mapping[Grouping, tuple[Layer, ...]]
    keys: dict[str, tuple[Mapping[str, int], dict[str, list[Any]], list[int]]] = field(default_factory=dict)
    deferral: Deferral = field(default_factory=Deferral)
    gradient_deferral: Deferral = field(default_factory=Deferral)
    orders: list[Orders] = field(default_factory=list)
    quick: list[Quick | None] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)

    def ordered(self, *, value: Callable[[Site], bool], gradient: Callable[[Site], bool]) -> Orders:
        """Return what is done at each visit, given whose values and gradients are wanted: at every step the same."""
        if not self.orders:
            wanted = {"value": list(map(value, self.sites)), "gradient": list(map(gradient, self.sites))}
            self.orders.append(orders_of(self.visits, self.sites, **wanted))
        return self.orders[0]

    def quick_visits(self) -> list[Quick | None]:
        """Return the visits at which nothing is measured at once; empty until that is known."""
        if not self.quick and self.deferral.settled and self.orders:
            visits = zip(self.visits, self.orders[0].visits, strict=True)
            self.quick.extend(quick_visit(visit, orders, self.deferral) for visit, orders in visits)
        return self.quick


@dataclass(slots=True)
class _Open:
    """A module that is running, and what is known of its visit so far."""

    module: nn.Module
    x: Tensor | None
    version: int
    made_by: int | None
    looks: list[Look] = field(default_factory=list)
    made: list[tuple[Tensor, int]] = field(default_factory=list)
    output: Tensor | None = None


class Learner:
    """Writes down what a followed pass shows; `refused` says why there will be no plan.

    A plan is refused where the input of a visit is changed while it runs, where a row is neither of an input nor of an
    output (functional activations: a pass may leave them out at another step, and no hook would tell), and where
    passes differ.
    """

    def __init__(self) -> None:
        self.refused: str | None = None
        self._sites: dict[SiteKey, int] = {}
        self._rows: list[Site] = []
        self._stack: list[_Open] = []
        self._made: TensorMap[int] = TensorMap()
        self._passes: list[list[Visit]] = []

    def begin(self) -> None:
        """A pass begins; the module that begins it has been entered."""
        self._passes.append([])
        self._made.clear()
        for visit in self._stack:
            visit.made_by = None

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module is about to run."""
        x = args[0] if args and isinstance(args[0], Tensor) else None
        if x is not None and x.is_inference():
            self.refuse("it runs in inference mode")
        version = 0 if x is None else version_of(x)
        self._stack.append(_Open(module, x, version, self._made.get(x)))

    def leaving(self, module: nn.Module, output: Any) -> None:
        """A module has run; its rows of the output are handed next."""
        while self._stack[-1].module is not module:  # left behind by an exception that was caught
            self._stack.pop()
            self.refuse("an exception was caught inside it")
        self._stack[-1].output = first_tensor(output)

    def left(self) -> None:
        """All rows of the innermost module have been handed."""
        visit = self._stack.pop()
        for tensor, version in visit.made:
            if tensor is not visit.output or version != version_of(tensor):
                self.refuse("an activation function's result is not what its module returns")
        if not visit.looks:
            return
        if visit.x is None:
            self.refuse("a module's input is not a tensor")
            return
        writes = version_of(visit.x) - visit.version
        if writes and any(look.of != "output" for look in visit.looks):
            self.refuse("a module overwrites an input that is measured")
        self._passes[-1].append(Visit(visit.module, tuple(visit.looks), visit.made_by, writes))

    def handed(self, site: Site, tensor: Tensor, *, normalized: bool = False) -> None:
        """A row was found: of the input or the output of the innermost module, or of the x-hat of its input."""
        if not self._stack or not tensor.ndim:
            self.refuse("a row belongs to no module, or is of a single number")
            return
        row, visit = self._row(site), self._stack[-1]
        graded = tensor.requires_grad and torch.is_grad_enabled()
        if normalized:  # its gradient is that of the output, times gamma
            graded = visit.output is not None and visit.output.requires_grad and torch.is_grad_enabled()
            visit.looks.append(Look(row, "normalized", tensor.ndim, graded))
        elif tensor is visit.output or (visit.output is None and is_activation(visit.module)):
            if visit.output is None:  # the function that an activation module calls has returned
                visit.made.append((tensor, version_of(tensor)))
            visit.looks.append(Look(row, "output", tensor.ndim, graded))
            self._made[tensor] = row
        elif tensor is visit.x:
            visit.looks.append(Look(row, "input", tensor.ndim, graded))
        else:
            self.refuse("an activation function is called outside of an activation module")

    def refuse(self, why: str) -> None:
        """There will be no plan."""
        self.refused = self.refused or why

    def plan(
        self,
        *,
        reasons: Mapping[SiteKey, str | None],
        order: Mapping[str, int],
        layers: Mapping[Grouping, tuple[Layer, ...]],
    ) -> Plan | None:
        """Return the plan; None if there is none. `reasons` say why the gradient of a site is null, if it is."""
        passes = [visits for visits in self._passes if visits]
        if self.refused or self._stack or not passes or any(visits != passes[0] for visits in passes):
            return None
        own = tuple(reasons.get(site.key) for site in self._rows)
        return Plan(tuple(passes[0]), tuple(self._rows), own, dict(order), layers)

    def _row(self, site: Site) -> int:
        if site.key not in self._sites:
            self._sites[site.key] = len(self._rows)
            self._rows.append(site)
        return self._sites[site.key]


@dataclass
class Plans:
    """The plans of one model, one for each kind of look; kept from step to step.

    After `RENEWED_AFTER` uses a pass is followed again and the plan made anew: a change that no hook of a plan can see
    (a functional activation that a model starts to apply in the middle of its training) is found then.
    """

    RENEWED_AFTER = 100

    known: dict[Any, Plan | None] = field(default_factory=dict)
    uses: dict[Any, int] = field(default_factory=dict)

    def get(self, key: Any) -> Plan | None:
        """Return the plan to use now; None if the pass is to be followed."""
        self.uses[key] = self.uses.get(key, 0) + 1
        return None if self.uses[key] % self.RENEWED_AFTER == 0 else self.known.get(key)

    def refused(self, key: Any) -> bool:
        """Return whether the model is known to have no plan."""
        return key in self.known and self.known[key] is None


def modules_of(plan: Plan) -> list[nn.Module]:
    """Return each module that gives rows once."""
    if not plan.modules:
        plan.modules.extend(dict.fromkeys(visit.module for visit in plan.visits))
    return plan.modules
