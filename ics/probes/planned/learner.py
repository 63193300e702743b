"""Writes down what a followed pass shows, so that later passes can be measured by a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ics.probes.counted_passes import NO_GRAPH, ForwardPasses, PassStart
from ics.probes.following.tracker import Site
from ics.probes.planned.calls import CallRow, ModuleCall
from ics.probes.planned.plan import SiteKey, SitePlan
from ics.probes.structure.activations import is_activation
from ics.probes.structure.grouping import Grouping
from ics.probes.structure.tensors import TensorMap, content_of, first_tensor, version_of
from ics.records import Layer


@dataclass(slots=True)
class _RunningModule:
    """A module that is running, and what its call has shown so far."""

    module: nn.Module
    x: Tensor | None
    version: int
    made_by: int | None
    rows: list[CallRow] = field(default_factory=list)
    made: list[tuple[Tensor, int]] = field(default_factory=list)
    output: Tensor | None = None


class Learner:
    """Writes down what followed passes show; of those that count a plan can be made.

    A plan is refused where the input of a call is changed while it runs, where a row is neither of an input nor of an
    output (functional activations: a pass may leave them out at another step, and no hook would tell), and where
    passes differ.

    Args:
        forward: the forward passes of the step.
    """

    def __init__(self, forward: ForwardPasses) -> None:
        self._forward = forward
        self._refused: dict[int, str] = {}
        self._graphs: dict[int, bool] = {}
        self._sites: dict[SiteKey, int] = {}
        self._rows: list[Site] = []
        self._stack: list[_RunningModule] = []
        self._made: TensorMap[tuple[int, bytes | None]] = TensorMap()
        self._passes: list[tuple[int, list[ModuleCall]]] = []

    def begin(self) -> None:
        """A pass begins; the module that begins it has been entered."""
        self._passes.append((self._forward.mode, []))
        self._made.clear()
        # The module that begins the pass was entered before, when tensors of the last pass still counted.
        for running in self._stack:
            running.made_by = None

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module is about to run."""
        x = args[0] if args and isinstance(args[0], Tensor) else None
        if x is not None and x.is_inference():
            # Inference tensors have no version, so a plan could not tell whether one was written to.
            self.refuse("it runs in inference mode")
        version = 0 if x is None else version_of(x)
        made = self._made.get(x)
        # A write through `.data` or numpy leaves the version as it was.
        made_by = None if x is None or made is None or made[1] != content_of(x) else made[0]
        self._stack.append(_RunningModule(module, x, version, made_by))

    def leaving(self, module: nn.Module, output: Any) -> None:
        """A module has run; its rows of the output are handed next."""
        while self._stack[-1].module is not module:  # left behind by an exception that was caught
            self._stack.pop()
            self.refuse("an exception was caught inside it")
        self._stack[-1].output = first_tensor(output)

    def left(self) -> None:
        """All rows of the innermost module have been handed."""
        running = self._stack.pop()
        # The hook of a plan sees what a module returns, not what the function inside it made. Both must be one tensor.
        for tensor, version in running.made:
            if tensor is not running.output or version != version_of(tensor):
                self.refuse("an activation function's result is not what its module returns")
        if not running.rows:
            return
        if running.x is None:
            self.refuse("a module's input is not a tensor")
            return
        writes = version_of(running.x) - running.version
        if writes and any(row.of != "output" for row in running.rows):
            # A plan looks at the input after the module has run; an in-place activation has overwritten it by then.
            self.refuse("a module overwrites an input that is measured")
        self._graphs.setdefault(self._forward.mode, torch.is_grad_enabled())
        self._passes[-1][1].append(ModuleCall(running.module, tuple(running.rows), running.made_by, writes))

    def handed(self, site: Site, tensor: Tensor, *, normalized: bool = False) -> None:
        """A row was found: of the input or the output of the innermost module, or of the x-hat of its input."""
        if not self._stack or not tensor.ndim:
            self.refuse("a row belongs to no module, or is of a single number")
            return
        number, running = self._number(site), self._stack[-1]
        graded = tensor.requires_grad and torch.is_grad_enabled()
        if normalized:  # its gradient is that of the output, times gamma
            graded = running.output is not None and running.output.requires_grad and torch.is_grad_enabled()
            running.rows.append(CallRow(number, "normalized", tensor.ndim, graded))
        elif tensor is running.output or (running.output is None and is_activation(running.module)):
            if running.output is None:  # the function that an activation module calls has returned
                running.made.append((tensor, version_of(tensor)))
            running.rows.append(CallRow(number, "output", tensor.ndim, graded))
            self._made[tensor] = number, content_of(tensor)
        elif tensor is running.x:
            running.rows.append(CallRow(number, "input", tensor.ndim, graded))
        else:
            self.refuse("an activation function is called outside of an activation module")

    def refuse(self, why: str) -> None:
        """There will be no plan of passes in the mode of the one that runs."""
        self._refused.setdefault(self._forward.mode, why)

    def plan(
        self,
        *,
        reasons: Mapping[SiteKey, str | None],
        order: Mapping[str, int],
        layers: Mapping[Grouping, tuple[Layer, ...]],
    ) -> SitePlan | None:
        """Return the plan; None if there is none. `reasons` say why the gradient of a site is null, if it is."""
        mode = self._forward.best
        passes = [calls for own, calls in self._passes if calls and own == mode]
        if self._refused.get(mode) or self._forward.continued or self._stack or not passes:
            return None
        # Passes of one step that differ (a layer is skipped at random) will differ at other steps too.
        if any(calls != passes[0] for calls in passes):
            return None
        # A row that only passes which do not count have is no row of the plan.
        if {row.number for call in passes[0] for row in call.rows} != set(range(len(self._rows))):
            return None
        start = PassStart(self._forward.roots[mode], mode, mode != NO_GRAPH and not self._graphs[mode])
        own = tuple(reasons.get(site.key) for site in self._rows)
        return SitePlan(tuple(passes[0]), tuple(self._rows), own, dict(order), layers, start)

    def _number(self, site: Site) -> int:
        if site.key not in self._sites:
            self._sites[site.key] = len(self._rows)
            self._rows.append(site)
        return self._sites[site.key]
