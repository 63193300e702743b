"""Looks at the passes of a step by a plan: one hook for each module that gives rows, and nothing else."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ics import stats
from ics.probes.collect import Statistics, block_of, keys_of, unscaled
from ics.probes.deferral import Queue
from ics.probes.hooks import Hooks
from ics.probes.normalization import broadcast_weight
from ics.probes.plan import Look, Plan, Visit, modules_of
from ics.probes.recompute import in_backward
from ics.probes.sink import Wanted
from ics.probes.tensors import first_tensor, undisturbed
from ics.probes.xhat import reduce_normalized
from ics.records import Block

_LOST = "the model did not do what it did at the steps before; it is followed in full from the next measured step on"
_NOT_REACHED = "no backward pass reached it while the probes were armed"


class PlannedLook:
    """Takes the rows of a step by a plan.

    An error of ours, and a pass that is not the planned one, end the measuring and not the training: `failure` keeps
    the one, `lost` says the other, and the rows of that step are null.
    """

    def __init__(self, plan: Plan, wanted: Wanted, *, loss_scale: float | Tensor | None) -> None:
        self.failure: Exception | None = None
        self.lost = False
        self.seen = False
        self.plan, self._wanted = plan, wanted
        self._histogram = wanted.activations is not None and wanted.activations.histogram
        self._loss_scale = loss_scale
        self._values = [Statistics(bounded=site.asymptotes is not None) for site in plan.sites]
        self._gradients = [Statistics() for _ in plan.sites]
        self._hooks = Hooks()
        self._thread = threading.get_ident()
        self._position = 0
        self._graph = True
        self._aliases: dict[int, list[int]] = {}
        self._made: dict[int, tuple[weakref.ref[Tensor], int, stats.Reduced | None]] = {}
        self._queue = Queue(plan.deferral, plan.sites, histogram=self._histogram)

    def attach(self) -> None:
        """Register a hook after each module that gives rows."""
        self._hooks.after_each(modules_of(self.plan), self._after)

    def detach(self) -> None:
        """Remove every hook; a pass that was not seen to its end is lost."""
        self._hooks.remove()
        self.lost = self.lost or self._position not in (0, len(self.plan.visits))

    def blocks(self, order: Mapping[str, int]) -> list[Block]:
        """Return the rows of the tables `activations` and `gradients`."""
        found = []
        if self._wanted.activations is not None:
            reasons = [_LOST if self.lost else None] * len(self.plan.sites)
            rows = [row for row, site in enumerate(self.plan.sites) if self._wanted.value(site)]
            found.append(self._block("activations", rows, self._values, reasons, order))
        if self._wanted.gradients is not None:
            reasons = [_LOST if self.lost else reason or _NOT_REACHED for reason in self.plan.reasons]
            rows = [row for row, site in enumerate(self.plan.sites) if self._wanted.gradient(site)]
            found.append(self._block("gradients", rows, self._gradients, reasons, order))
        return found

    def _block(
        self,
        table: str,
        rows: Sequence[int],
        statistics: Sequence[Statistics],
        reasons: Sequence[str | None],
        order: Mapping[str, int],
    ) -> Block:
        keys = self.plan.keys.get(table)
        if keys is None or keys[0] != order:
            keys = self.plan.keys[table] = order, keys_of(table, [self.plan.sites[row] for row in rows], order)
        columns = self._wanted.activations if table == "activations" else self._wanted.gradients
        return block_of(
            keys[1],
            [Statistics(statistics[row].bounded) if self.lost else statistics[row] for row in rows],
            [reasons[row] for row in rows],
            table=table,
            per_channel=columns is not None and columns.per_channel,
        )

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.lost or self.failure is not None or threading.get_ident() != self._thread or in_backward():
            return
        try:
            self._visit(
                module, args[0] if args else None, output if isinstance(output, Tensor) else first_tensor(output)
            )
        except Exception as error:
            self.failure = error

    def _visit(self, module: nn.Module, x: Any, output: Tensor | None) -> None:
        if self._position == len(self.plan.visits):
            self._position = 0
            self._made.clear()
            self._aliases.clear()
        visit = self.plan.visits[self._position]
        if visit.module is not module or not isinstance(x, Tensor) or output is None or not self._is_made(visit, x):
            self.lost = True
            return
        self.seen = True
        self._position += 1
        self._graph = torch.is_grad_enabled()
        with undisturbed(output):
            for look in visit.looks:
                self._look(look, visit, x, output)
            if self._position == len(self.plan.visits):
                self._end_pass()

    def _end_pass(self) -> None:
        found = self._queue.finish()
        if found is None:
            self.lost = True
        for row, reduced in found or ():
            self._values[row].add(reduced)

    def _is_made(self, visit: Visit, x: Tensor) -> bool:
        """Whether the input is the tensor that it should be, and unwritten."""
        if visit.made_by is None:
            return True
        made = self._made.get(visit.made_by)
        return made is not None and made[0]() is x and x._version == made[1] + visit.writes

    def _look(self, look: Look, visit: Visit, x: Tensor, output: Tensor) -> None:
        tensor = x if look.of == "input" else output
        if tensor.ndim != look.ndim:
            self.lost = True
            return
        site = self.plan.sites[look.row]
        if self._wanted.gradient(site) and not self._follow(look, visit, tensor):
            return
        reduced = self._reduce(look, visit, x, output) if self._wanted.value(site) else None
        if reduced is not None:
            self._values[look.row].add(reduced)
        if look.of == "output":
            self._made[look.row] = weakref.ref(output), output._version, reduced

    def _reduce(self, look: Look, visit: Visit, x: Tensor, output: Tensor) -> stats.Reduced | None:
        """Return the statistics of a row; None if it waits for the end of the pass."""
        site, alike = self.plan.sites[look.row], self._are_alike(look, visit)
        if alike and visit.made_by is not None:
            if look.of == "input" and self._queue.takes_alias(look.row, visit.made_by):
                return None
            if look.of == "normalized" and self._queue.takes(look.row, x, normalization=(visit.module, visit.made_by)):
                return None
        values = x if look.of == "input" else output
        own = look.of == "output" or (look.of == "input" and not alike)
        if own and self._queue.takes(look.row, values):
            return None
        made = self._made[visit.made_by][2] if alike and visit.made_by is not None else None
        if look.of == "normalized":
            return reduce_normalized(visit.module, x, axis=site.axis, known=made, histogram=self._histogram)
        if look.of == "input" and made is not None:
            return made
        return stats.reduce(values, channel_axis=site.axis, saturation=site.asymptotes, histogram=self._histogram)

    def _follow(self, look: Look, visit: Visit, tensor: Tensor) -> bool:
        """Have the gradient of a row taken, if it has one; it has one at every step or at none."""
        if look.graded != (tensor.requires_grad and self._graph):
            self.lost = True
        elif look.of == "input" and visit.made_by is not None and self._are_followed_alike(look, visit):
            self._aliases.setdefault(visit.made_by, []).append(look.row)
        elif look.graded:
            scale = broadcast_weight(visit.module, tensor) if look.of == "normalized" else None
            self._hooks.on_gradient(tensor, partial(self._take_gradient, look.row, scale))
        return not self.lost

    def _are_followed_alike(self, look: Look, visit: Visit) -> bool:
        """Whether the gradient of the input is taken already, as that of the row that made it."""
        made_by = visit.made_by
        return made_by is not None and self._are_alike(look, visit) and self._wanted.gradient(self.plan.sites[made_by])

    def _are_alike(self, look: Look, visit: Visit) -> bool:
        """Whether a row of the input is measured as the row that made the input was."""
        if visit.made_by is None or visit.writes:
            return False
        made, own = self.plan.sites[visit.made_by].axis, self.plan.sites[look.row].axis
        return made % look.ndim == own % look.ndim

    def _take_gradient(self, row: int, scale: Tensor | None, gradient: Tensor) -> None:
        if self.failure is not None or self.lost:
            return
        try:
            with undisturbed(gradient):
                values = unscaled(gradient if scale is None else gradient * scale, self._loss_scale)
                axis = self.plan.sites[row].axis
                histogram = self._wanted.gradients is not None and self._wanted.gradients.histogram
                reduced = stats.reduce(values, channel_axis=axis, histogram=histogram)
                for each in (row, *self._aliases.get(row, ())):
                    self._gradients[each].add(reduced)
        except Exception as error:
            self.failure = error
