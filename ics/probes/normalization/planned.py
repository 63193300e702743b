"""Looks at the normalisations of a step by what an earlier step showed: one hook for each, and one on its gradient.

The backward node of torch's normalisation is handed dL/d(output) and returns dL/d(input). A hook on that node sees
both while they are unspoilt, together with the input, which is kept for the node anyway: so nothing is copied, and one
read of the three gives every sum of Theorem 4.1. The terms of all normalisations are then computed at once.
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
from ics.probes.following.recompute import in_backward
from ics.probes.following.site_rows import Gradients
from ics.probes.following.site_statistics import unscaled
from ics.probes.hooks import Hooks
from ics.probes.normalization.plan import NormalizationPlan, Visit, traits_of
from ics.probes.normalization.rows import NormalizationRow, normalization_block, numbers
from ics.probes.normalization.terms import (
    TERMS,
    BatchStatistics,
    batch_statistics,
    sum_of_squares,
    theorem_terms,
    values_per_channel,
)
from ics.probes.structure.tensors import first_tensor, undisturbed
from ics.records import Block

_LOST = "the model did not do what it did at the steps before; it is followed in full from the next measured step on"


class _Measured(NamedTuple):
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


class NormalizationLook:
    """Takes the rows of the table `normalization` by a plan.

    An error of ours, and a pass that is not the planned one, end the measuring and not the training: `failure` keeps
    the one, `lost` says the other, and the rows of that step are null.

    Args:
        plan: what earlier steps showed.
        per_channel: whether the table has columns per channel.
        loss_scale: what the loss is multiplied by for the backward pass; gradients are divided by it.
    """

    def __init__(self, plan: NormalizationPlan, *, per_channel: bool, loss_scale: float | Tensor | None) -> None:
        self.failure: Exception | None = None
        self.lost = False
        self.seen = not plan.visits  # there is nothing to see
        self.plan = plan
        self._per_channel, self._loss_scale = per_channel, loss_scale
        self._rows = [NormalizationRow(visit.normalization, per_channel=per_channel) for visit in plan.visits]
        self._hooks = Hooks()
        self._thread = threading.get_ident()
        self._position = 0
        self._visited = 0
        self._awaited: set[int] = set()
        self._made: dict[nn.Module, tuple[weakref.ref[Tensor], int]] = {}
        self._measured: list[_Measured] = []

    def attach(self) -> None:
        """Register a hook after each normalisation, and after each layer that one follows."""
        visited = [visit.normalization for visit in self.plan.visits]
        self._hooks.after_each(dict.fromkeys(each.module for each in visited), self._after)
        self._hooks.after_each(dict.fromkeys(each.of for each in visited if each.of is not None), self._after_layer)

    def detach(self) -> None:
        """Remove every hook; a pass that was not seen to its end, or did not come back, is lost."""
        self._hooks.remove()
        self.lost = self.lost or self._position != 0 or bool(self._awaited)
        self._made.clear()

    def block(self, order: Mapping[str, int]) -> Block:
        """Return the rows; raises what went wrong in the user's passes, where it must not stop a training."""
        if self.failure is not None:
            raise self.failure
        if not self.seen and not self.lost:
            return normalization_block([], order)
        if self.lost:
            visited = [visit.normalization for visit in self.plan.visits]
            rows = [NormalizationRow(each, per_channel=self._per_channel, reason=_LOST) for each in visited]
            return normalization_block(rows, order, empty=True)
        with torch.no_grad():
            self._finish()
            return normalization_block(self._rows, order)

    def _after_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        result = first_tensor(output)
        if result is not None and threading.get_ident() == self._thread and not in_backward():
            self._made[module] = weakref.ref(result), result._version

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.lost or self.failure is not None or threading.get_ident() != self._thread:
            return
        try:
            traits = None if in_backward() else traits_of(module, args, output)
            visit = self.plan.visits[self._position]
            if traits is None or traits != visit.traits or visit.normalization.module is not module:
                self.lost = True
                return
            x, graph = args[0], torch.is_grad_enabled()
            with undisturbed(x):
                self._visit(visit, x, output, graph)
        except Exception as error:
            self.failure = error

    def _visit(self, visit: Visit, x: Tensor, output: Tensor, graph: bool) -> None:
        if not self._follows_its_layer(visit, x):
            self.lost = True
            return
        self.seen = True
        row, traits = self._position, visit.traits
        self._position = (self._position + 1) % len(self.plan.visits)
        count = values_per_channel(x) if traits.plain else None
        self._rows[row].add_call(count, needs_gradient=traits.graded or not graph)
        if not traits.graded:
            if traits.plain and self._per_channel:
                self._rows[row].add_batch(batch_statistics(x))
            return
        self._visited += 1
        self._awaited.add(self._visited)
        take = partial(self._take, row, x.detach(), x._version, self._visited)
        if traits.by_node:
            self._hooks.on_node(output, take)
        else:
            self._hooks.on_gradient(output, lambda gradient: take((None,), (gradient,)))

    def _follows_its_layer(self, visit: Visit, x: Tensor) -> bool:
        """Whether the input is what the layer returned that it followed, and unwritten."""
        if visit.normalization.of is None:
            return True
        made = self._made.get(visit.normalization.of)
        return made is not None and made[0]() is x and made[1] == x._version

    def _take(self, row: int, x: Tensor, version: int, number: int, sent_back: Gradients, gradients: Gradients) -> None:
        """Take dL/d(output), and dL/d(input) where there is one."""
        if self.lost or self.failure is not None:
            return
        self._awaited.discard(number)
        self.lost = x._version != version
        if self.lost or gradients[0] is None:
            return
        try:
            with undisturbed(x):
                self._measure(row, x, gradients[0], sent_back[0])
        except Exception as error:
            self.failure = error

    def _measure(self, row: int, x: Tensor, gradient: Tensor, back: Tensor | None) -> None:
        visit = self.plan.visits[row]
        module: Any = visit.normalization.module
        if not visit.traits.plain:
            self._rows[row].add_terms({TERMS[0]: sum_of_squares(unscaled(gradient, self._loss_scale))})
            if back is not None:
                self._rows[row].add_input_gradient_squared(sum_of_squares(unscaled(back, self._loss_scale)))
            return
        sums = stats.backward_sums(x, gradient, back, channel_axis=1)
        weight = module._parameters.get("weight")
        kept = None if weight is None else weight.detach().to(sums.dtype, copy=True)  # the optimizer writes to it
        by_batch = visit.traits.by_batch
        self._measured.append(_Measured(row, values_per_channel(x), sums, kept, module.eps, by_batch, back is not None))

    def _finish(self) -> None:
        """Compute the terms of all BatchNorms at once, a device at a time."""
        for device in dict.fromkeys(each.sums.device for each in self._measured):
            self._add_terms([each for each in self._measured if each.sums.device == device])
        if self._per_channel:
            for each in self._measured:
                self._rows[each.row].add_batch(BatchStatistics(each.m, each.sums[0], each.sums[1]))
        self._measured.clear()

    def _add_terms(self, measured: Sequence[_Measured]) -> None:
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
        one = torch.ones_like(scale)
        return sums / torch.stack((one, one, scale, scale**2, scale, scale**2))[:, None]
