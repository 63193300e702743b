"""Measures the normalisations of a step by what an earlier step showed: one hook for each, and one on its gradient.

The backward node of torch's normalisation is handed dL/d(output) and returns dL/d(input). A hook on that node sees
both before anything overwrites them, together with the input, which is kept for the node anyway. So nothing is copied,
and one read of the three gives every sum of Theorem 4.1. The terms of all normalisations are then computed at once.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ics import stats
from ics.probes.counted_passes import EVALUATION, NO_GRAPH, TWICE, BackwardPasses, CountedGradients
from ics.probes.following.recompute import in_backward
from ics.probes.following.site_rows import NodeGradients
from ics.probes.following.site_statistics import unscaled
from ics.probes.normalization.plan import NormalizationCall, NormalizationPlan, Traits, traits_of
from ics.probes.normalization.rows import NormalizationRow, normalization_block, numbers
from ics.probes.normalization.terms import (
    TERMS,
    BatchStatistics,
    batch_statistics,
    sum_of_squares,
    theorem_terms,
    values_per_channel,
)
from ics.probes.planned.batched_rows import PlanLostError
from ics.probes.planned.planned_step import LOST, PlannedStep
from ics.probes.structure.tensors import first_tensor, undisturbed, version_of
from ics.records import Block


class _BackwardSums(NamedTuple):
    """What the backward pass through a BatchNorm showed.

    Attributes:
        row: number of its row.
        m: values per channel.
        sums: (6, C), see `ics.stats.backward_sums`.
        weight: gamma, as it was then; None where there is none.
        eps: what is added to the variance.
        by_batch: whether Theorem 4.1 applies.
        sent_back: whether there was a dL/d(input).
    """

    row: int
    m: int
    sums: Tensor
    weight: Tensor | None
    eps: float
    by_batch: bool
    sent_back: bool


class PlannedNormalizations(PlannedStep):
    """Takes the rows of the table `normalization` of a step by a plan.

    Args:
        plan: what earlier steps showed.
        backward: tells which backward passes count.
        per_channel: whether the table has columns per channel.
        loss_scale: what the loss is multiplied by for the backward pass; gradients are divided by it.
    """

    def __init__(
        self,
        plan: NormalizationPlan,
        backward: BackwardPasses,
        *,
        per_channel: bool,
        loss_scale: float | Tensor | None,
    ) -> None:
        super().__init__(plan.start)
        self.seen = not plan.calls  # there is nothing to see
        self.plan = plan
        self._per_channel, self._loss_scale = per_channel, loss_scale
        self._rows = self._empty_rows()
        self._awaited: set[int] = set()  # numbers of the hooks whose gradient has not come yet
        self._made: dict[nn.Module, tuple[weakref.ref[Tensor], int]] = {}
        self._measured: list[_BackwardSums] = []
        self._counted = CountedGradients(backward, self._forget_gradients)

    def attach(self) -> None:
        """Register a hook after each normalisation, and after each layer that one follows."""
        planned = [call.normalization for call in self.plan.calls]
        self._hooks.after_each(dict.fromkeys(each.module for each in planned), self._after)
        self._hooks.after_each(dict.fromkeys(each.of for each in planned if each.of is not None), self._after_layer)

    def _empty_rows(self, reason: str | None = None) -> list[NormalizationRow]:
        calls = self.plan.calls
        return [NormalizationRow(call.normalization, per_channel=self._per_channel, reason=reason) for call in calls]

    def _waits(self, mode: int) -> bool:
        traits = [call.traits for call in self.plan.calls]
        if mode == NO_GRAPH:
            return any(each.graded for each in traits)
        return mode == EVALUATION and any(each.by_batch for each in traits)

    def _forget(self) -> None:
        self._position = 0
        self._rows = self._empty_rows()
        self._awaited.clear()
        self._measured.clear()
        self._counted.void()

    def _finish_passes(self) -> None:
        self._made.clear()
        if self._position != 0 or self._awaited:
            raise PlanLostError

    def block(self, order: Mapping[str, int]) -> Block:
        """Return the rows."""
        if not self.seen and not self.lost:
            return normalization_block([], order)
        if self.lost:
            return normalization_block(self._empty_rows(LOST), order, empty=True)
        with torch.no_grad():
            self._finish()
            everywhere, spoiled = self._counted.passes.reason, self._counted.spoiled
            for number, row in enumerate(self._rows):
                row.void_gradients(everywhere or (TWICE if number in spoiled else None))
            return normalization_block(self._rows, order)

    def _after_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        result = first_tensor(output)
        if result is not None and threading.get_ident() == self._thread and not in_backward():
            self._made[module] = weakref.ref(result), version_of(result)

    def _take_call(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._position == 0 and not in_backward() and not self._begins():
            return
        traits = None if in_backward() else traits_of(module, args, output)
        call = self.plan.calls[self._position]
        if traits is None or traits != call.traits or call.normalization.module is not module:
            raise PlanLostError
        x, graph = args[0], torch.is_grad_enabled()
        with undisturbed(x):
            if not self._follows_its_layer(call, x):
                raise PlanLostError
            self.seen = True
            row = self._position
            self._position = (self._position + 1) % len(self.plan.calls)
            count = values_per_channel(x) if traits.plain else None
            self._rows[row].add_call(count, needs_gradient=traits.graded or not graph)
            if traits.graded:
                self._follow(row, traits, x, output)
            elif traits.plain and self._per_channel:
                self._rows[row].add_batch(batch_statistics(x))

    def _follow(self, row: int, traits: Traits, x: Tensor, output: Tensor) -> None:
        """Register a hook that takes the gradients of a call."""
        number = self._counted.number()
        self._awaited.add(number)
        # torch keeps the input for this very backward node, so holding it here adds no memory.
        take = partial(self._take, row, x.detach(), x._version, number)
        # The node of torch's normalisation has both gradients. Of any other normalisation only dL/d(output) can be had,
        # by a hook on the tensor: what else reads the input sends gradients to it as well.
        if traits.by_node:
            self._hooks.on_node(output, take)
        else:
            self._hooks.on_gradient(output, lambda gradient: take((None,), (gradient,)))

    def _follows_its_layer(self, call: NormalizationCall, x: Tensor) -> bool:
        """Whether the input is what the layer returned that it followed, and unwritten."""
        if call.normalization.of is None:
            return True
        made = self._made.get(call.normalization.of)
        return made is not None and made[0]() is x and made[1] == x._version

    def _take(
        self, row: int, x: Tensor, version: int, number: int, sent_back: NodeGradients, gradients: NodeGradients
    ) -> None:
        """Take dL/d(output), and dL/d(input) where there is one."""
        if self.lost or self.failure is not None:
            return
        self._awaited.discard(number)
        try:
            if not self._counted.takes(number, row):
                return
            # The input was overwritten since the forward pass, and with it what has to be measured.
            if x._version != version:
                raise PlanLostError
            if gradients[0] is not None:
                with undisturbed(x):
                    self._measure(row, x, gradients[0], sent_back[0])
        except Exception as error:
            self._end(error)

    def _forget_gradients(self) -> None:
        self._measured.clear()
        for row in self._rows:
            row.forget_gradients()

    def _measure(self, row: int, x: Tensor, gradient: Tensor, back: Tensor | None) -> None:
        call = self.plan.calls[row]
        module: Any = call.normalization.module
        if not call.traits.plain:
            self._rows[row].add_terms({TERMS[0]: sum_of_squares(unscaled(gradient, self._loss_scale))})
            if back is not None:
                self._rows[row].add_input_gradient_squared(sum_of_squares(unscaled(back, self._loss_scale)))
            return
        sums = stats.backward_sums(x, gradient, back, channel_axis=1)
        weight = module._parameters.get("weight")
        kept = None if weight is None else weight.detach().to(sums.dtype, copy=True)  # the optimizer writes to it
        by_batch = call.traits.by_batch
        self._measured.append(
            _BackwardSums(row, values_per_channel(x), sums, kept, module.eps, by_batch, back is not None)
        )

    def _finish(self) -> None:
        """Compute the terms of all BatchNorms at once, a device at a time."""
        for device in dict.fromkeys(each.sums.device for each in self._measured):
            self._add_terms([each for each in self._measured if each.sums.device == device])
        if self._per_channel:
            for each in self._measured:
                self._rows[each.row].add_batch(BatchStatistics(each.m, each.sums[0], each.sums[1]))
        self._measured.clear()

    def _add_terms(self, measured: Sequence[_BackwardSums]) -> None:
        sums = self._unscaled(torch.cat([each.sums for each in measured], 1))
        sizes = [each.sums.shape[1] for each in measured]
        plain = sums.new_ones(max(sizes))
        weight = torch.cat(
            [plain[:size] if each.weight is None else each.weight for each, size in zip(measured, sizes, strict=True)]
        )
        count, eps = self.plan.constants_of([(each.m, each.eps) for each in measured], sizes, sums)
        terms = torch.cat((theorem_terms(sums, count=count, weight=weight, eps=eps), sums[5:]))
        totals = torch.stack([part.sum(1) for part in terms.split(sizes, 1)], 1)
        found = zip(*(numbers(own) for own in totals), strict=True)
        for each, values in zip(measured, found, strict=True):
            row = self._rows[each.row]
            row.add_terms(dict(zip(TERMS if each.by_batch else TERMS[:1], values, strict=False)))
            if each.sent_back:
                row.add_input_gradient_squared(values[4])

    def _unscaled(self, sums: Tensor) -> Tensor:
        """Return the sums of the gradients of the loss itself."""
        if self._loss_scale is None:
            return sums
        scale = torch.as_tensor(self._loss_scale, dtype=sums.dtype, device=sums.device)
        # Mean and variance are of values, the third and fifth sums are linear in gradients, the others quadratic.
        one = torch.ones_like(scale)
        return sums / torch.stack((one, one, scale, scale**2, scale, scale**2))[:, None]
