"""Measures the passes of a step by a plan: one hook for each module that gives rows, and nothing else."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ics import stats
from ics.probes.counted_passes import NO_GRAPH, NOT_REACHED, TWICE, BackwardPasses, CountedGradients
from ics.probes.following.normalized import reduce_normalized
from ics.probes.following.recompute import in_backward
from ics.probes.following.site_rows import SiteColumns, Wanted
from ics.probes.following.site_statistics import keys_of, unscaled
from ics.probes.normalization.terms import broadcast_weight
from ics.probes.planned.batched_rows import PlanLostError, RowBuffer
from ics.probes.planned.calls import BatchedCall, ModuleCall, RowAction
from ics.probes.planned.plan import SitePlan
from ics.probes.planned.planned_step import LOST, PlannedStep
from ics.probes.planned.table_rows import TableRows, empty_block
from ics.probes.structure.tensors import first_tensor, undisturbed
from ics.records import Block

_unseen = torch._C.DisableTorchFunction
_NOTHING = SiteColumns(frozenset(), histogram=False, per_channel=False)


class PlannedSites(PlannedStep):
    """Takes the rows of the tables `activations` and `gradients` of a step by a plan."""

    def __init__(
        self, plan: SitePlan, wanted: Wanted, backward: BackwardPasses, *, loss_scale: float | Tensor | None
    ) -> None:
        super().__init__(plan.start)
        self._position = len(plan.calls)
        self.plan, self._wanted = plan, wanted
        self._of_values, self._of_gradients = wanted.activations or _NOTHING, wanted.gradients or _NOTHING
        self._loss_scale = loss_scale
        self._actions = plan.actions(value=wanted.value, gradient=wanted.gradient)
        self._bounded = [site.asymptotes is not None for site in plan.sites]
        self._values = TableRows(self._bounded, per_channel=self._of_values.per_channel)
        self._gradients = TableRows([False] * len(plan.sites), per_channel=self._of_gradients.per_channel)
        self._graph = True
        self._batched_calls = plan.batched_calls()
        # Of each row of an output: the tensor, its version, and its statistics, if it was measured at once.
        self._made: dict[int, tuple[weakref.ref[Tensor], int, stats.Reduced | None]] = {}
        self._buffer = RowBuffer(
            plan.batch,
            plan.sites,
            self._actions.same_values,
            self._values,
            histogram=self._of_values.histogram,
            per_channel=self._of_values.per_channel,
        )
        self._gradient_buffer = RowBuffer(
            plan.gradient_batch,
            plan.sites,
            self._actions.same_gradients,
            self._gradients,
            histogram=self._of_gradients.histogram,
            per_channel=self._of_gradients.per_channel,
            of_gradients=True,
        )
        self._counted = CountedGradients(backward, self._forget_gradients)

    def attach(self) -> None:
        """Register a hook after each module that gives rows."""
        self._hooks.after_each(self.plan.modules(), self._after)

    def _finish_passes(self) -> None:
        if self._position != len(self.plan.calls):
            raise PlanLostError
        if len(self._gradient_buffer):
            self._gradient_buffer.measure()

    def _waits(self, mode: int) -> bool:
        # Values can be had of any pass, but its gradients are planned.
        return mode == NO_GRAPH and self.plan.start.mode != NO_GRAPH and self._wanted.gradients is not None

    def _forget(self) -> None:
        self._position = len(self.plan.calls)
        self._made.clear()
        self._values.clear()
        self._buffer.clear()
        self._forget_gradients()
        self._counted.void()

    def blocks(self, order: Mapping[str, int]) -> list[Block]:
        """Return the rows of the tables `activations` and `gradients`."""
        found = []
        if self._wanted.activations is not None:
            found.append(self._block("activations", self._values, order))
        if self._wanted.gradients is not None:
            found.append(self._block("gradients", self._gradients, order))
        return found

    def _block(self, table: str, statistics: TableRows, order: Mapping[str, int]) -> Block:
        made = self.plan.keys.get(table)
        if made is None or made[0] != order:
            wanted = self._wanted.value if table == "activations" else self._wanted.gradient
            rows = [row for row, site in enumerate(self.plan.sites) if wanted(site)]
            keys = keys_of(table, [self.plan.sites[row] for row in rows], order)
            made = self.plan.keys[table] = order, keys, rows
        _, keys, rows = made
        if self.lost:
            bounded = [table == "activations" and self._bounded[row] for row in rows]
            columns = self._of_values if table == "activations" else self._of_gradients
            return empty_block(table, keys, bounded, LOST, per_channel=columns.per_channel)
        if table == "activations":
            return statistics.block(table, keys, rows, [None] * len(rows))
        void = self._void_gradients(rows)
        statistics.discard(void)
        reasons = [
            void[row] if row in void and planned in (None, NOT_REACHED) else planned or NOT_REACHED
            for row, planned in ((row, self.plan.reasons[row]) for row in rows)
        ]
        return statistics.block(table, keys, rows, reasons)

    def _void_gradients(self, rows: Sequence[int]) -> dict[int, str]:
        """Return the rows whose gradient is not known though backward passes reached them, and why."""
        everywhere = self._counted.passes.reason
        if everywhere is not None:
            return dict.fromkeys(rows, everywhere)
        spoiled = {row for followed in self._counted.spoiled for row, _ in followed}
        same = self._actions.same_gradients
        return {row: TWICE for row in rows if same.get(row, row) in spoiled} if spoiled else {}

    def _forget_gradients(self) -> None:
        self._gradients.clear()
        self._gradient_buffer.clear()

    def _take_call(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # Checkpointing without reentry calls modules again inside the backward pass. Their rows came with the forward
        # pass. (A model that uses reentrant checkpointing is refused a plan.)
        if in_backward():
            return
        calls = self.plan.calls
        if self._position == len(calls):
            if not self._begins():
                return
            # A pass of the step begins, in gradient accumulation one of several. Tensors of the last one count no more:
            # a model that caches an output must not be taken for one that makes it anew.
            self._position = 0
            self._made.clear()
        call, x = calls[self._position], args[0] if args else None
        result = output if isinstance(output, Tensor) else first_tensor(output)
        if call.module is not module or not isinstance(x, Tensor) or result is None:
            raise PlanLostError
        self.seen = True
        batched = self._batched_calls[self._position] if self._batched_calls else None
        # Function modes, the user's among them, need not see what we compute.
        with _unseen():
            if not self._is_made(call, x):
                raise PlanLostError
            if batched is not None and self._buffer.add_all(batched.rows, batched.needed, x, result):
                self._take_gradients_of(batched, call, x, result)
            else:
                self._graph = torch.is_grad_enabled()  # `undisturbed` turns it off
                with undisturbed(result):
                    self._take_each(call, x, result)
        self._position += 1
        if self._position == len(calls):
            with undisturbed(result):
                self._buffer.measure()

    def _take_gradients_of(self, batched: BatchedCall, call: ModuleCall, x: Tensor, output: Tensor) -> None:
        """Do the rest of a call whose values are measured with others."""
        for of_output, graded, ndim in batched.graded:
            tensor = output if of_output else x
            if graded != (tensor.requires_grad and torch.is_grad_enabled()) or ndim != tensor.ndim:
                raise PlanLostError
        if batched.follows_input:
            self._follow(x, [(row, None) for row in batched.follows_input])
        if batched.follows_output:
            # dL/d(x-hat) = gamma dL/d(output): one hook on the output serves both rows.
            gamma = broadcast_weight(call.module, output) if any(own for _, own in batched.follows_output) else None
            self._follow(output, [(row, gamma if own else None) for row, own in batched.follows_output])
        for row in batched.made:
            # Held weakly: measuring must not keep a tensor alive. The version tells a write in place.
            self._made[row] = weakref.ref(output), output._version, None

    def _take_each(self, call: ModuleCall, x: Tensor, output: Tensor) -> None:
        followed: list[tuple[int, Tensor | None]] = []
        for action in self._actions.calls[self._position]:
            row = action.row
            tensor = x if row.of == "input" else output
            graded = tensor.requires_grad and self._graph
            if tensor.ndim != row.ndim or (action.gradient and row.graded != graded):
                raise PlanLostError
            if action.follows and row.of == "input":
                self._follow(tensor, [(row.number, None)])
            elif action.follows:
                followed.append((row.number, broadcast_weight(call.module, tensor) if row.of == "normalized" else None))
            self._take_value(action, call, x, output)
        if followed:
            self._follow(output, followed)

    def _follow(self, tensor: Tensor, rows: list[tuple[int, Tensor | None]]) -> None:
        """Register a hook that takes the gradient of a tensor for each of the rows, times gamma for x-hat."""
        self._hooks.on_gradient(tensor, partial(self._take_gradients, rows, self._counted.number()))

    def _is_made(self, call: ModuleCall, x: Tensor) -> bool:
        """Whether the input is the tensor that it should be, and unwritten."""
        if call.made_by is None:
            return True
        made = self._made.get(call.made_by)
        return made is not None and made[0]() is x and x._version == made[1] + call.writes

    def _take_value(self, action: RowAction, call: ModuleCall, x: Tensor, output: Tensor) -> None:
        reduced = self._reduce(action, call, x, output) if action.value else None
        if reduced is not None:
            self._values.add(action.row.number, reduced)
        if action.row.of == "output":
            self._made[action.row.number] = weakref.ref(output), output._version, reduced

    def _reduce(self, action: RowAction, call: ModuleCall, x: Tensor, output: Tensor) -> stats.Reduced | None:
        """Return the statistics of a row; None if it is measured with others at the end of the pass."""
        number, of, made_by = action.row.number, action.row.of, call.made_by
        values = output if of == "output" else x
        # The input of a layer mostly is the output of the one before. Its statistics are then taken over, not measured.
        if action.alike and of == "input":
            if self._buffer.shares(number):
                return None
        elif of != "normalized":
            if self._buffer.add(number, values):
                return None
        elif action.alike and self._buffer.add(number, x, call.module, made_by):
            return None
        site, histogram = self.plan.sites[number], self._of_values.histogram
        # Mean and variance of the input, if it was measured at once, give x-hat without another read.
        of_input = self._made[made_by][2] if action.alike and made_by is not None else None
        if of == "normalized":
            return reduce_normalized(call.module, x, axis=site.axis, of_input=of_input, histogram=histogram)
        if of == "input" and of_input is not None:
            return of_input
        return stats.reduce(values, channel_axis=site.axis, saturation=site.asymptotes, histogram=histogram)

    def _take_gradients(self, rows: list[tuple[int, Tensor | None]], number: int, gradient: Tensor) -> None:
        """Take the gradient of a tensor; of the rows of it some are that times gamma."""
        if self.failure is not None or self.lost:
            return
        try:
            if not self._counted.takes(number, rows):
                return
            with undisturbed(gradient):
                for row, scale in rows:
                    # Gradients of a scaled loss are divided first, which the kernels of a group do not do.
                    if self._loss_scale is not None or not self._gradient_buffer.add(row, gradient, scale=scale):
                        self._measure_gradient(row, gradient, scale)
        except Exception as error:
            self._end(error)

    def _measure_gradient(self, row: int, gradient: Tensor, scale: Tensor | None) -> None:
        values = unscaled(gradient if scale is None else gradient * scale, self._loss_scale)
        reduced = stats.reduce(values, channel_axis=self.plan.sites[row].axis, histogram=self._of_gradients.histogram)
        self._gradients.add(row, reduced)
        for alias, made_by in self._actions.same_gradients.items():
            if made_by == row:
                self._gradients.add(alias, reduced)
