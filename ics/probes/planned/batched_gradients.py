"""Small gradients of sites that wait until the last of them has come, to be measured together.

A gradient is handed to a hook once it is complete, and nobody should write to it after that; whoever does is found by
its version. What a module's own backward pass frees stays in memory for as long as it waits here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ics import stats
from ics.probes.following.tracker import Site
from ics.probes.planned.batched_rows import MOST_WAITING, Deferral, Tasks, is_small
from ics.probes.planned.table_rows import TableRows
from ics.probes.structure.tensors import version_of

Take = Callable[[int, Tensor, Tensor | None], None]


@dataclass(slots=True)
class _Gradient:
    """dL/d(tensor), its version when it came, and a copy of gamma where the row is that times gamma."""

    tensor: Tensor
    version: int
    scale: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor, scale: Tensor | None) -> _Gradient:
        """Keep a gradient. Gamma is copied: an optimizer may step within the backward pass."""
        return cls(tensor, version_of(tensor), None if scale is None else scale.clone())

    @property
    def untouched(self) -> bool:
        """Whether nobody has written to it since."""
        return self.version == version_of(self.tensor)


class GradientQueue:
    """What waits in one backward pass after another of one step.

    Args:
        deferral: what is known of the gradients that can wait; worked out when the step ends, if it is not.
        sites: the site of each row.
        aliases: rows that have the gradient of another.
        rows: what takes the statistics.
        measure: measures the gradient of a row at once, times gamma if there is one.
        histogram: whether to count histograms.
        per_channel: whether to keep statistics per channel.
    """

    def __init__(
        self,
        deferral: Deferral,
        sites: Sequence[Site],
        aliases: Mapping[int, int],
        rows: TableRows,
        measure: Take,
        *,
        histogram: bool,
        per_channel: bool,
    ) -> None:
        self._deferral, self._sites, self._aliases, self._rows = deferral, sites, aliases, rows
        self._measure = measure
        self._histogram, self._per_channel = histogram, per_channel
        self._waiting: dict[int, _Gradient] = {}

    def take(self, row: int, gradient: Tensor, scale: Tensor | None) -> bool:
        """Measure a gradient now or later; False if someone wrote to what waited, and it is lost.

        Args:
            row: number of the row.
            gradient: what was handed to the hook.
            scale: of x-hat gamma, shaped so that it multiplies the gradient.
        """
        lost = False
        if row in self._waiting:  # another backward pass, and the last one did not reach all rows
            lost = not self.finish()
        if not self._deferral.settled:
            self._measure(row, gradient, scale)
            if is_small(gradient) and self._is_exact(row, gradient, scale):
                self._waiting[row] = _Gradient.of(gradient, scale)
            return not lost
        known = self._deferral.tasks.get(row)
        fits = known is not None and known[1].fits(gradient) and known[1].scaled == (scale is not None)
        if not fits or not self._is_exact(row, gradient, scale):
            self._measure(row, gradient, scale)
            return not lost
        self._waiting[row] = _Gradient.of(gradient, scale)
        if len(self._waiting) == len(self._deferral.tasks):
            lost = not self.finish() or lost
        return not lost

    def finish(self) -> bool:
        """Measure what waits; False if someone wrote to it, and it is lost."""
        waiting, self._waiting = self._waiting, {}
        deferral = self._deferral
        if not deferral.settled:
            if waiting:
                tasks = _tasks(waiting, self._sites)
                deferral.settle(tasks, self._aliases, histogram=self._histogram, per_channel=self._per_channel)
            return True
        if not all(each.untouched for each in waiting.values()):
            return False
        if deferral.group is not None and len(waiting) == len(deferral.tasks):
            ordered = [waiting[row] for row in deferral.tasks]
            factors = [each.scale for each in ordered if each.scale is not None]
            found = deferral.group.measure([each.tensor for each in ordered], factors=factors)
            self._rows.add_together(deferral.places, found)
        else:
            for row, each in waiting.items():
                self._measure(row, each.tensor, each.scale)
        return True

    def _is_exact(self, row: int, gradient: Tensor, scale: Tensor | None) -> bool:
        """Whether the kernels make and round gradient times gamma as torch does: per channel, in float32."""
        return scale is None or (
            gradient.dtype is scale.dtype is torch.float32
            and scale.is_contiguous()
            and scale.numel() == gradient.shape[self._sites[row].axis]
        )


def _tasks(seen: Mapping[int, _Gradient], sites: Sequence[Site]) -> Tasks:
    """Return which gradients can wait: small, on a CPU, and not written to until the end of the step."""
    tasks: Tasks = {}
    values = 0
    for row, each in seen.items():
        x = each.tensor
        if not each.untouched or values + x.numel() > MOST_WAITING:
            continue
        task = stats.Task(tuple(x.shape), x.stride(), x.dtype, sites[row].axis, scaled=each.scale is not None)
        tasks[row] = len(tasks), task
        values += x.numel()
    return tasks
