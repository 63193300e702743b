"""Statistics of all parameters of a model, and of their gradients, in one call of the kernels.

What depends on the shapes alone is laid out once. Each step then writes addresses into rows of parts, which the kernels
take (`ics.stats.cpu.parameters`). Of a net of many small parameters calling is what costs, of one of large ones
reading memory: here each value is read once. Only float32 on a CPU, in memory without gaps; for everything else there
are `reduce`, `norms` and `distances`, which give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ics.buckets import NUM_BUCKETS
from ics.stats.backends import fused_way
from ics.stats.packed import PACKED

_PART = 2**17  # values that are worth a part: another thread takes some microseconds to come
_ROWS = len(PACKED)

Extent = tuple[tuple[int, ...], tuple[int, ...]]
"""Shape and strides of a tensor."""


class GradientStatistics(NamedTuple):
    """What was measured of n tensors.

    Attributes:
        squares: (n,), sum of x^2 of each, accumulated in float64.
        packed: float64, the packed statistics (rows, C) of one tensor after another; rows as in `ics.stats.PACKED`.
        channels: the C of each.
        buckets: of each, the signed numbers of the buckets with a count, ascending; None without histograms.
        counts: the counts in these.
    """

    squares: np.ndarray
    packed: Tensor
    channels: Sequence[int]
    buckets: Sequence[np.ndarray] | None
    counts: Sequence[np.ndarray] | None

    def moments(self) -> list[Tensor]:
        """Return the packed statistics of each tensor, (rows, C)."""
        parts = self.packed.split([_ROWS * each for each in self.channels])
        return [part.view(_ROWS, -1) for part in parts]

    def pooled(self) -> np.ndarray:
        """Return the packed statistics of tensors that are one channel each, (rows, n)."""
        return self.packed.view(-1, _ROWS).numpy().T


def is_taken(x: Tensor) -> bool:
    """Return whether the kernels can read a tensor, if its memory has no gaps; no wrapper that hides where it is."""
    return x.is_cpu and x.dtype is torch.float32 and type(x) in _TYPES and x.layout is torch.strided and not x.is_neg()


_TYPES = (Tensor, nn.Parameter)


def extents_of(tensors: Sequence[Tensor]) -> list[Extent]:
    """Return shape and strides of each."""
    return [(x.shape, x.stride()) for x in tensors]


class ChangeMeasurer:
    """Measures ||x||^2 and ||y - x||^2 for each of several x and what they became, y, in one read of both.

    Made by `changes_of`. The differences are formed in float32, as an optimizer changed them; sums are float64.
    """

    def __init__(self, kernels: Any, extents: Sequence[Extent]) -> None:
        from ics.stats.cpu import parameters as fields

        self._kernels = kernels
        self._fields = fields
        sizes = [math.prod(shape) for shape, _ in extents]
        pieces = [
            (number, start, min(_PART, size - start))
            for number, size in enumerate(sizes)
            for start in range(0, max(size, 1), _PART)
        ]
        self._tensor, starts, lengths = np.array(pieces, np.int64).reshape(-1, 3).T
        self._offset = 4 * starts
        self._first = np.flatnonzero(starts == 0)
        self._found = np.empty((len(pieces), 2))
        self._parts = np.zeros((len(pieces), fields.PART), np.int64)
        self._parts[:, fields.WHAT] = fields.CHANGE
        self._parts[:, fields.LENGTH] = lengths
        self._parts[:, fields.OUT] = self._found.ctypes.data + 16 * np.arange(len(pieces))
        self._worth = sum(sizes) // _PART

    def measure(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> np.ndarray:
        """Return the sums, (n, 2) float64; the tensors must have the extents, and the same memory layout in pairs."""
        fields, parts = self._fields, self._parts
        parts[:, fields.SOURCE] = _addresses(before)[self._tensor] + self._offset
        parts[:, fields.OTHER] = _addresses(after)[self._tensor] + self._offset
        self._kernels.run(parts, _NONE, worth=self._worth)
        # One sum per tensor from those of its parts, in their order.
        return np.add.reduceat(self._found, self._first)


class GradientMeasurer:
    """Measures moments, sum of squares and histogram of each of several tensors, in one read. Made by `gradients_of`.

    Moments and accuracy: those of `ics.stats.channel_moments`; histograms: those of `ics.stats.histogram`.
    """

    def __init__(self, kernels: Any, layouts: Sequence[_Layout]) -> None:
        from ics.stats.cpu import parameters as fields

        self._kernels = kernels
        self._fields = fields
        self._lay_out_moments(layouts)
        self._lay_out_histograms(layouts)
        self._parts = np.concatenate([self._moment_parts, self._histogram_parts])
        self._worth = sum(layout.size for layout in layouts) // _PART

    def measure(self, tensors: Sequence[Tensor]) -> GradientStatistics:
        """Return the statistics; the tensors must have the extents."""
        fields, parts = self._fields, self._parts
        parts[:, fields.SOURCE] = _addresses(tensors)[self._tensor] + self._offset
        moments = torch.empty(_ROWS * sum(self._channels), dtype=torch.float64)
        squares = np.empty(len(tensors))
        self._tensors[:, fields.MOMENTS_AT] = moments.data_ptr() + self._moments_offset
        self._tensors[:, fields.SQUARES_AT] = squares.ctypes.data + 8 * np.arange(len(tensors))
        self._kernels.run(parts, self._tensors, worth=self._worth)
        return GradientStatistics(squares, moments, self._channels, *self._histograms())

    def _histograms(self) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]] | tuple[None, None]:
        if not len(self._places):
            return None, None
        ends = np.cumsum(self._scratch[self._at])
        buckets, counts = np.empty((2, ends[-1]), np.int64)
        self._kernels.gather(self._places.ctypes.data, len(self._places), buckets.ctypes.data, counts.ctypes.data)
        starts, stops = [0, *ends[:-1].tolist()], ends.tolist()
        slices = [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]
        return [buckets[own] for own in slices], [counts[own] for own in slices]

    def _lay_out_moments(self, layouts: Sequence[_Layout]) -> None:
        fields = self._fields
        pieces = [(number, *piece) for number, layout in enumerate(layouts) for piece in layout.pieces()]
        rows = np.array(pieces, np.int64).reshape(-1, 4)  # tensor, first value, channels, values of each
        width = 8 * fields.WIDTH
        starts = width * np.cumsum([0, *rows[:, 2]])
        self._accumulators = np.empty(starts[-1] // 8)
        parts = self._moment_parts = np.zeros((len(rows), fields.PART), np.int64)
        parts[:, fields.WHAT] = fields.GRADIENT
        parts[:, fields.CHANNELS], parts[:, fields.LENGTH] = rows[:, 2], rows[:, 3]
        parts[:, fields.OUT] = self._accumulators.ctypes.data + starts[:-1]
        self._tensor, self._offset = rows[:, 0], 4 * rows[:, 1]
        self._channels = [layout.channels for layout in layouts]
        tensors = self._tensors = np.zeros((len(layouts), fields.TENSOR), np.int64)
        first = np.searchsorted(rows[:, 0], np.arange(len(layouts)))
        tensors[:, fields.ACCUMULATORS] = parts[first, fields.OUT]
        own = np.bincount(rows[:, 0], minlength=len(layouts))
        tensors[:, fields.NUM_CHANNELS] = self._channels
        tensors[:, fields.NUM_PARTS] = np.where(tensors[:, fields.NUM_CHANNELS] == 1, own, 1)
        self._moments_offset = 8 * _ROWS * np.cumsum([0, *self._channels[:-1]])

    def _lay_out_histograms(self, layouts: Sequence[_Layout]) -> None:
        fields = self._fields
        counted = [number for number, layout in enumerate(layouts) if layout.logical is not None]
        parts = self._histogram_parts = np.zeros((len(counted), fields.PART), np.int64)
        room = np.array([min(layouts[number].taken, NUM_BUCKETS) for number in counted], np.int64)
        self._at = np.cumsum([0, *(1 + 2 * room)])[:-1]
        self._scratch = np.empty(int((1 + 2 * room).sum()), np.int64)
        self._places = np.stack([self._scratch.ctypes.data + 8 * self._at, room], 1)
        if not counted:
            return
        parts[:, fields.WHAT] = fields.HISTOGRAM
        parts[:, fields.OUT] = self._places[:, 0]
        parts[:, fields.LENGTH] = [layout.taken for layout in layouts]
        parts[:, fields.CHANNELS] = [layout.logical_channels for layout in layouts]
        parts[:, fields.STRIDE : fields.STRIDE + 5] = [layout.logical for layout in layouts]
        self._tensor = np.concatenate([self._tensor, np.array(counted)])
        self._offset = np.concatenate([self._offset, np.zeros(len(counted), np.int64)])


_NONE = np.zeros((0, 5), np.int64)


class _Layout(NamedTuple):
    """How a tensor is read: as `channels` channels of `inner` values that lie one after the other in memory."""

    channels: int
    inner: int
    taken: int  # values in the histogram
    logical_channels: int
    logical: tuple[int, int, int, int, int] | None  # as in `ics.stats.cpu.backend.MemoryPlan`; None without a histogram

    @property
    def size(self) -> int:
        return self.channels * self.inner

    def pieces(self) -> list[tuple[int, int, int]]:
        """Return (first value, channels, values of each) of the parts; a channel is cut only if there is one alone."""
        if self.channels == 1:
            starts = range(0, max(self.inner, 1), _PART)
            return [(start, 1, min(_PART, self.inner - start)) for start in starts]
        step = max(1, _PART // max(1, self.inner))
        return [
            (start * self.inner, min(step, self.channels - start), self.inner)
            for start in range(0, self.channels, step)
        ]


def changes_of(extents: Sequence[Extent]) -> ChangeMeasurer | None:
    """Lay out the measuring of changes; None where no kernels are in use, or a tensor's memory has gaps.

    Example:
        >>> before, after = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 6.0])
        >>> changes = changes_of(extents_of([before]))
        >>> changes is None or changes.measure([before], [after]).tolist() == [[25.0, 4.0]]
        True
    """
    kernels = getattr(fused_way("cpu"), "parameters", None)
    if kernels is None or not extents:
        return None
    return ChangeMeasurer(kernels, extents) if all(_layout(each, False, False, None) for each in extents) else None


def gradients_of(
    extents: Sequence[Extent], *, per_channel: bool, histogram: bool, max_values: int | None = 65_536
) -> GradientMeasurer | None:
    """Lay out the measuring of gradients; None where no kernels are in use, or they cannot read a tensor.

    Args:
        extents: of the gradients.
        per_channel: whether entries along the first axis of tensors with two axes or more are channels; all values of
            any other tensor are one channel.
        histogram: whether to count histograms.
        max_values: as for `ics.stats.histogram`.

    Example:
        >>> x = torch.tensor([[1.0, 3.0], [5.0, 9.0]])
        >>> gradients = gradients_of(extents_of([x]), per_channel=True, histogram=False)
        >>> gradients is None or gradients.measure([x]).moments()[0][1].tolist() == [2.0, 7.0]
        True
    """
    kernels = getattr(fused_way("cpu"), "parameters", None)
    if kernels is None or not extents:
        return None
    layouts = [_layout(each, per_channel, histogram, max_values) for each in extents]
    return None if None in layouts else GradientMeasurer(kernels, [layout for layout in layouts if layout is not None])


def _layout(extent: Extent, per_channel: bool, histogram: bool, max_values: int | None) -> _Layout | None:
    from ics.stats.cpu.backend import plan_of

    shape, strides = extent
    size = math.prod(shape)
    channels = shape[0] if per_channel and len(shape) > 1 else 1
    if size == 0:
        return None if channels != 1 or histogram else _Layout(1, 0, 0, 1, None)
    plan = plan_of(shape, strides, 0, 0)
    # Channels must lie one after the other in memory; of a channels_last weight they do, of a transposed one not.
    if plan is None or (channels > 1 and plan.memory[0] != 1):
        return None
    if not histogram:
        return _Layout(channels, size // channels, 0, 1, None)
    # A sample is taken in logical order; where axis 0 leaves no walk through memory (channels_last), axis 1 does.
    walks = (plan_of(shape, strides, axis, max_values) for axis in range(min(2, max(1, len(shape)))))
    walk = next((each for each in walks if each is not None and each.logical is not None), None)
    return None if walk is None else _Layout(channels, size // channels, walk.taken, walk.memory[1], walk.logical)


def _addresses(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.array([x.data_ptr() for x in tensors], np.int64)
