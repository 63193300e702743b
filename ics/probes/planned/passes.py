"""Looks at the passes of a step by a plan: one hook for each module that gives rows, and nothing else."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ics import stats
from ics.probes.following.normalized import reduce_normalized
from ics.probes.following.recompute import in_backward
from ics.probes.following.site_rows import Columns, Wanted
from ics.probes.following.site_statistics import keys_of, unscaled
from ics.probes.hooks import Hooks
from ics.probes.normalization.terms import broadcast_weight
from ics.probes.planned.batched_gradients import GradientQueue
from ics.probes.planned.batched_rows import Queue
from ics.probes.planned.plan import Plan, modules_of
from ics.probes.planned.steps import Order, Quick, Visit
from ics.probes.planned.table_rows import TableRows, empty_block
from ics.probes.structure.tensors import first_tensor, undisturbed
from ics.records import Block

_LOST = "the model did not do what it did at the steps before; it is followed in full from the next measured step on"
_NOT_REACHED = "no backward pass reached it while the probes were armed"
_unseen = torch._C.DisableTorchFunction
_NOTHING = Columns(frozenset(), histogram=False, per_channel=False)


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
        self._of_values, self._of_gradients = wanted.activations or _NOTHING, wanted.gradients or _NOTHING
        self._loss_scale = loss_scale
        self._orders = plan.ordered(value=wanted.value, gradient=wanted.gradient)
        self._bounded = [site.asymptotes is not None for site in plan.sites]
        self._values = TableRows(self._bounded, per_channel=self._of_values.per_channel)
        self._gradients = TableRows([False] * len(plan.sites), per_channel=self._of_gradients.per_channel)
        self._hooks = Hooks()
        self._thread = threading.get_ident()
        self._position = 0
        self._graph = True
        self._quick = plan.quick_visits()
        self._made: dict[int, tuple[weakref.ref[Tensor], int, stats.Reduced | None]] = {}
        self._queue = Queue(
            plan.deferral,
            plan.sites,
            self._orders.values,
            self._values,
            histogram=self._of_values.histogram,
            per_channel=self._of_values.per_channel,
        )
        self._gradient_queue = GradientQueue(
            plan.gradient_deferral,
            plan.sites,
            self._orders.gradients,
            self._gradients,
            self._measure_gradient,
            histogram=self._of_gradients.histogram,
            per_channel=self._of_gradients.per_channel,
        )

    def attach(self) -> None:
        """Register a hook after each module that gives rows."""
        self._hooks.after_each(modules_of(self.plan), self._after)

    def detach(self) -> None:
        """Remove every hook; a pass that was not seen to its end is lost."""
        self._hooks.remove()
        self.lost = self.lost or self._position not in (0, len(self.plan.visits))
        if self.failure is None and not self.lost:
            try:
                self.lost = not self._gradient_queue.finish()
            except Exception as error:
                self.failure = error

    def blocks(self, order: Mapping[str, int]) -> list[Block]:
        """Return the rows of the tables `activations` and `gradients`."""
        found = []
        if self._wanted.activations is not None:
            found.append(self._block("activations", self._values, order))
        if self._wanted.gradients is not None:
            found.append(self._block("gradients", self._gradients, order))
        return found

    def _block(self, table: str, statistics: TableRows, order: Mapping[str, int]) -> Block:
        known = self.plan.keys.get(table)
        if known is None or known[0] != order:
            wanted = self._wanted.value if table == "activations" else self._wanted.gradient
            rows = [row for row, site in enumerate(self.plan.sites) if wanted(site)]
            keys = keys_of(table, [self.plan.sites[row] for row in rows], order)
            known = self.plan.keys[table] = order, keys, rows
        _, keys, rows = known
        if self.lost:
            bounded = [table == "activations" and self._bounded[row] for row in rows]
            columns = self._of_values if table == "activations" else self._of_gradients
            return empty_block(table, keys, bounded, _LOST, per_channel=columns.per_channel)
        reasons = [None if table == "activations" else self.plan.reasons[row] or _NOT_REACHED for row in rows]
        return statistics.block(table, keys, rows, reasons)

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
        visits = self.plan.visits
        if self._position == len(visits):
            self._position = 0
            self._made.clear()
        visit = visits[self._position]
        if visit.module is not module or not isinstance(x, Tensor) or output is None:
            self.lost = True
            return
        self.seen = True
        quick = self._quick[self._position] if self._quick else None
        with _unseen():
            if not self._is_made(visit, x):
                self.lost = True
            elif quick is None or not self._queue.takes_all(quick.waits, quick.needed, x, output):
                self._graph = torch.is_grad_enabled()
                with undisturbed(output):
                    self._take_each(visit, x, output)
            else:
                self._take_gradients_of(quick, visit, x, output)
        self._position += 1
        if self._position == len(visits) and not self.lost:
            with undisturbed(output):
                self.lost = not self._queue.finish()

    def _take_gradients_of(self, quick: Quick, visit: Visit, x: Tensor, output: Tensor) -> None:
        """Do the rest of a visit whose values wait."""
        for of_output, graded, ndim in quick.graded:
            tensor = output if of_output else x
            if graded != (tensor.requires_grad and torch.is_grad_enabled()) or ndim != tensor.ndim:
                self.lost = True
                return
        if quick.follows_input:
            self._follow(x, [(row, None) for row in quick.follows_input])
        if quick.follows_output:
            gamma = broadcast_weight(visit.module, output) if any(own for _, own in quick.follows_output) else None
            self._follow(output, [(row, gamma if own else None) for row, own in quick.follows_output])
        for row in quick.made:
            self._made[row] = weakref.ref(output), output._version, None

    def _take_each(self, visit: Visit, x: Tensor, output: Tensor) -> None:
        followed: list[tuple[int, Tensor | None]] = []
        for order in self._orders.visits[self._position]:
            row, of = order.look.row, order.look.of
            tensor = x if of == "input" else output
            graded = tensor.requires_grad and self._graph
            if tensor.ndim != order.look.ndim or (order.gradient and order.look.graded != graded):
                self.lost = True
                return
            if order.follows and of == "input":
                self._follow(tensor, [(row, None)])
            elif order.follows:
                followed.append((row, broadcast_weight(visit.module, tensor) if of == "normalized" else None))
            self._take_value(order, visit, x, output)
        if followed:
            self._follow(output, followed)

    def _follow(self, tensor: Tensor, rows: list[tuple[int, Tensor | None]]) -> None:
        """Have the gradient of a tensor taken: that of each row, times gamma for x-hat."""
        self._hooks.on_gradient(tensor, partial(self._take_gradients, rows))

    def _is_made(self, visit: Visit, x: Tensor) -> bool:
        """Whether the input is the tensor that it should be, and unwritten."""
        if visit.made_by is None:
            return True
        made = self._made.get(visit.made_by)
        return made is not None and made[0]() is x and x._version == made[1] + visit.writes

    def _take_value(self, order: Order, visit: Visit, x: Tensor, output: Tensor) -> None:
        reduced = self._reduce(order, visit, x, output) if order.value else None
        if reduced is not None:
            self._values.add(order.look.row, reduced)
        if order.look.of == "output":
            self._made[order.look.row] = weakref.ref(output), output._version, reduced

    def _reduce(self, order: Order, visit: Visit, x: Tensor, output: Tensor) -> stats.Reduced | None:
        """Return the statistics of a row; None if it waits for the end of the pass."""
        row, of, made_by = order.look.row, order.look.of, visit.made_by
        values = output if of == "output" else x
        if order.alike and of == "input":
            if self._queue.takes_alias(row):
                return None
        elif of != "normalized":
            if self._queue.takes(row, values):
                return None
        elif order.alike and self._queue.takes(row, x, visit.module, made_by):
            return None
        site, histogram = self.plan.sites[row], self._of_values.histogram
        made = self._made[made_by][2] if order.alike and made_by is not None else None
        if of == "normalized":
            return reduce_normalized(visit.module, x, axis=site.axis, known=made, histogram=histogram)
        if of == "input" and made is not None:
            return made
        return stats.reduce(values, channel_axis=site.axis, saturation=site.asymptotes, histogram=histogram)

    def _take_gradients(self, rows: list[tuple[int, Tensor | None]], gradient: Tensor) -> None:
        """Take the gradient of a tensor; of the rows of it some are that times gamma."""
        if self.failure is not None or self.lost:
            return
        try:
            with undisturbed(gradient):
                for row, scale in rows:
                    if self._loss_scale is not None:
                        self._measure_gradient(row, gradient, scale)
                    elif not self._gradient_queue.take(row, gradient, scale):
                        self.lost = True
        except Exception as error:
            self.failure = error

    def _measure_gradient(self, row: int, gradient: Tensor, scale: Tensor | None) -> None:
        values = unscaled(gradient if scale is None else gradient * scale, self._loss_scale)
        reduced = stats.reduce(values, channel_axis=self.plan.sites[row].axis, histogram=self._of_gradients.histogram)
        self._gradients.add(row, reduced)
        for alias, made_by in self._orders.gradients.items():
            if made_by == row:
                self._gradients.add(alias, reduced)
