"""Several small tensors measured in one call of the kernels, their layout looked at once.

Of a tensor of some ten thousand values, calling takes longer than measuring. A group is laid out for tensors of known
shapes, strides and types; each time it is handed such tensors, it writes their addresses into its requests and runs
them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ics.buckets import NUM_BUCKETS
from ics.stats.backends import fused_way
from ics.stats.moments import SATURATED_WITHIN
from ics.stats.packed import PACKED
from ics.stats.reduction import Reduced


@dataclass(frozen=True, slots=True)
class Task:
    """A tensor to be measured, in a group.

    Attributes:
        shape: its shape.
        strides: its strides.
        dtype: float32, bfloat16 or float16.
        channel_axis: the axis that counts channels.
        saturation: asymptotes, as for `reduce`.
        normalizes: the number of an earlier task of the group: measures (x - mean) / sqrt(m2 + eps) per channel, with
            mean and m2 of that task's tensor, which is the same; NaN for channels in which a value is not finite.
        eps: what is added to m2.
        scaled: whether x times a factor per channel is measured; `measure` is then handed the factors.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    channel_axis: int
    saturation: tuple[float, float] | None = None
    normalizes: int | None = None
    eps: float = 0.0
    scaled: bool = False

    def fits(self, x: Tensor) -> bool:
        """Return whether a tensor has the layout of the task."""
        return x.shape == self.shape and x.stride() == self.strides and x.dtype is self.dtype


@dataclass(frozen=True, slots=True, eq=False)
class GroupStatistics:
    """What a group measured of its S tensors.

    Attributes:
        moments: (S, rows, 1) if they are pooled over channels; else (S, rows, C) if all have C channels, or S of
            (rows, C).
        histograms: (S, NUM_BUCKETS) int64; None where they were not asked for.
    """

    moments: Tensor | Sequence[Tensor]
    histograms: Tensor | None

    def each(self) -> list[Reduced]:
        """Return the statistics of each tensor by itself."""
        counts = [None] * len(self.moments) if self.histograms is None else self.histograms.unbind()
        return [Reduced(each, own) for each, own in zip(self.moments, counts, strict=True)]


class Group:
    """Measures tensors that fit its tasks, in the calling thread. Made by `group_of`."""

    def __init__(
        self,
        together: Callable[..., None],
        requests: np.ndarray,
        tasks: Sequence[Task],
        *,
        histogram: bool,
        per_channel: bool,
    ) -> None:
        from ics.stats.cpu import jobs

        self._together = together
        self._fields = jobs
        self._requests = requests
        self._histogram, self._per_channel = histogram, per_channel
        self._channels: list[int] = requests[:, jobs.CHANNELS].tolist()
        self._sizes = [len(PACKED) * each for each in self._channels]
        self._offsets = 8 * np.cumsum([0, *self._sizes[:-1]])
        self._accumulators = torch.empty(max(self._channels) * jobs.WIDTH, dtype=torch.float64)
        self._moments = None if per_channel else torch.empty(sum(self._sizes), dtype=torch.float64)
        self._shifts = torch.zeros(sum(self._channels), dtype=torch.float32)
        self._scales = torch.empty(sum(self._channels), dtype=torch.float32)
        self._bases = np.array([-1 if task.normalizes is None else task.normalizes for task in tasks], np.int64)
        self._eps = np.array([task.eps for task in tasks], np.float64)
        self._scaled = [number for number, task in enumerate(tasks) if task.scaled]
        self._prepare()

    def measure(self, tensors: Sequence[Tensor], *, factors: Sequence[Tensor] = ()) -> GroupStatistics:
        """Return what `reduce` returns of each tensor; nothing may write to them meanwhile.

        Args:
            tensors: they must fit the tasks.
            factors: (C,) float32 for each task that is `scaled`, in their order.
        """
        fields, count = self._fields, len(self._sizes)
        requests = self._requests
        requests[:, fields.NEXT_JOB] = 0
        requests[:, fields.SOURCE] = [x.data_ptr() for x in tensors]
        for number, factor in zip(self._scaled, factors, strict=True):
            requests[number, fields.SCALES] = factor.data_ptr()
        if self._moments is None:
            # New memory each time: what is returned must not change at the next call.
            moments = torch.empty(sum(self._sizes), dtype=torch.float64)
            requests[:, fields.MOMENTS_AT] = moments.data_ptr() + self._offsets
            pooled = 0
        else:  # those per channel are written over at the next call
            moments = torch.empty((count, len(PACKED), 1), dtype=torch.float64)
            pooled = moments.data_ptr()
        histograms = None
        if self._histogram:
            histograms = torch.empty((count, NUM_BUCKETS), dtype=torch.int64)
            requests[:, fields.HISTOGRAM] = histograms.data_ptr() + 8 * NUM_BUCKETS * np.arange(count)
        self._together(requests.ctypes.data, count, self._bases.ctypes.data, self._eps.ctypes.data, pooled)
        return GroupStatistics(self._shaped(moments) if self._per_channel else moments, histograms)

    def _shaped(self, moments: Tensor) -> Tensor | list[Tensor]:
        rows, channels = len(PACKED), self._channels
        if len(set(channels)) == 1:
            return moments.view(len(channels), rows, channels[0])
        return [part.view(rows, -1) for part in moments.split(self._sizes)]

    def _prepare(self) -> None:
        """Write the addresses that stay the same from call to call."""
        fields, starts = self._fields, 4 * np.cumsum([0, *self._channels[:-1]])
        self._requests[:, fields.ACCUMULATORS] = self._accumulators.data_ptr()
        if self._moments is not None:
            self._requests[:, fields.MOMENTS_AT] = self._moments.data_ptr() + self._offsets
        own = self._bases >= 0
        own[self._scaled] = True  # shifts of 0
        self._requests[own, fields.SHIFTS] = self._shifts.data_ptr() + starts[own]
        self._requests[own, fields.SCALES] = self._scales.data_ptr() + starts[own]


def group_of(
    tasks: Sequence[Task], *, histogram: bool, per_channel: bool = True, max_values: int | None = 65_536
) -> Group | None:
    """Lay out a group; None where no kernels are in use, or they do not take one of the tensors.

    Args:
        tasks: what is measured, in this order.
        histogram: whether to count histograms.
        per_channel: whether to return moments per channel, or pooled (`ics.stats.pooled`), which is all that is kept.
        max_values: as for `reduce`.

    Example:
        >>> x = torch.tensor([[1.0, 5.0], [3.0, 9.0]])
        >>> task = Task((2, 2), (2, 1), torch.float32, 1)
        >>> group = group_of([task], histogram=False)
        >>> group is None or group.measure([x]).moments[0, 1].tolist() == [2.0, 7.0]
        True
    """
    together = getattr(fused_way("cpu"), "together", None)
    if not tasks or together is None:
        return None
    from ics.stats.cpu import jobs
    from ics.stats.cpu.backend import KINDS, plan_of

    limit = max_values if histogram else 0
    requests = np.zeros((len(tasks), jobs.FIELDS), np.int64)
    for request, task in zip(requests, tasks, strict=True):
        plan, kind = plan_of(task.shape, task.strides, task.channel_axis, limit), KINDS.get(task.dtype)
        if plan is None or kind is None or plan.logical is None or plan.parts > 1:
            return None
        request[[jobs.KIND, jobs.OUTER, jobs.CHANNELS, jobs.INNER, jobs.PARTS]] = (kind, *plan.memory, 1)
        request[jobs.TAKEN] = plan.taken
        request[jobs.STRIDE : jobs.STRIDE + 5] = plan.logical
        if task.saturation is not None:
            low, high = task.saturation
            margin = SATURATED_WITHIN * (high - low)
            request[jobs.HAS_ASYMPTOTES] = 1
            request[[jobs.LOW, jobs.HIGH]] = np.array([low + margin, high - margin]).view(np.int64)
    return Group(together, requests, tasks, histogram=histogram, per_channel=per_channel)
