"""Accumulates the statistics of sites over the passes of a step and lays them out as blocks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from ics import schema, stats
from ics.probes.counted_passes import NOT_REACHED
from ics.probes.following.normalized import reduce_normalized
from ics.probes.following.tracker import Site
from ics.probes.structure.tensors import content_of, version_of
from ics.records import BOUNDED, PACKED, PACKED_CHANNELS, Block


@dataclass
class Statistics:
    """Packed moments and histogram of one site, over all passes so far; pooled over channels unless `per_channel`."""

    bounded: bool = False
    per_channel: bool = True
    moments: Tensor | None = None
    histogram: Tensor | None = None
    pooled: bool = False

    def add(self, reduced: stats.Reduced) -> None:
        """Merge the statistics of another pass; where the number of channels differs only the pooled ones are kept."""
        moments = reduced.moments if self.per_channel else stats.pooled(reduced.moments)
        if self.moments is None:
            self.moments, self.histogram = moments, reduced.histogram
            return
        # Channels can be compared only where their number is the same; the values all together always can.
        if self.moments.shape != moments.shape:
            self.moments, moments = self._as_one_channel(self.moments), self._as_one_channel(moments)
            self.pooled = self.per_channel
        self.moments = stats.merged(self.moments, moments)
        if self.histogram is not None and reduced.histogram is not None:
            self.histogram = self.histogram + reduced.histogram

    def reason(self, nothing: str | None) -> str | None:
        """Return why cells of the row are null, given why nothing was measured if nothing was."""
        if self.moments is None:
            return nothing
        return "the number of channels differs between the passes of the step" if self.pooled else None

    def _as_one_channel(self, moments: Tensor) -> Tensor:
        if moments.shape[-1] == 1:
            return moments
        pooled = stats.pool(stats.unpack(moments, has_asymptotes=self.bounded))
        one: dict[str, Any] = {item.name: getattr(pooled, item.name) for item in fields(pooled)}
        one = {name: None if value is None else value[None] for name, value in one.items()}
        return stats.pack(stats.Moments(**one))


@dataclass
class Record:
    """One row: a site, what was measured there, and why if nothing was."""

    site: Site
    statistics: Statistics
    reason: str | None = None

    @classmethod
    def of(cls, site: Site, *, gradient: bool, per_channel: bool, reason: str | None = None) -> Record:
        """Return an empty row for a site; gradients do not saturate."""
        bounded = not gradient and site.asymptotes is not None
        return cls(site, Statistics(bounded=bounded, per_channel=per_channel), reason)

    def voided(self, reason: str) -> Record:
        """Return the row without its statistics, null for a reason."""
        return Record(self.site, Statistics(self.statistics.bounded, self.statistics.per_channel), reason)


@dataclass
class Collector:
    """The rows of one armed step.

    Args:
        histogram: whether to count histograms of values.
        per_channel: whether to keep the columns per channel of values.
        gradient_histogram: whether to count histograms of gradients.
        gradient_per_channel: whether to keep the columns per channel of gradients.
        loss_scale: what the loss was multiplied by before the backward pass; gradients are divided by it.
    """

    histogram: bool
    per_channel: bool
    gradient_histogram: bool
    gradient_per_channel: bool
    loss_scale: float | Tensor | None
    values: dict[tuple[str, int, str], Record] = field(default_factory=dict)
    gradients: dict[tuple[str, int, str], Record] = field(default_factory=dict)
    _last: dict[bool, _Reduction] = field(default_factory=dict)

    def add_value(self, site: Site, tensor: Tensor) -> None:
        """Take the tensor of a site into account."""
        record = self.values.setdefault(site.key, self._record(site, gradient=False))
        record.statistics.add(self._reduce(tensor, site, gradient=False))

    def add_normalized(self, site: Site, module: nn.Module, x: Tensor) -> None:
        """Take x-hat of a normalisation into account, given its input."""
        record = self.values.setdefault(site.key, self._record(site, gradient=False))
        last = self._last.get(False)
        of_input = last.reduced if last is not None and last.fits(x, site) else None
        record.statistics.add(reduce_normalized(module, x, axis=site.axis, of_input=of_input, histogram=self.histogram))

    def add_gradient(self, site: Site, gradient: Tensor) -> None:
        """Take dL/d(site) into account, if it is expected: its site may have been withdrawn since."""
        record = self.gradients.get(site.key)
        if record is not None:
            record.statistics.add(self._reduce(gradient, site, gradient=True))

    def forget_gradients(self) -> None:
        """Drop what was taken of gradients; their rows stay."""
        self._last.pop(True, None)
        for record in self.gradients.values():
            record.statistics = self._record(record.site, gradient=True).statistics

    def void_gradients(self, reason_of: Callable[[Hashable], str | None]) -> None:
        """Make those rows of gradients null for which there is a reason."""
        for key, record in self.gradients.items():
            reason = reason_of(key)
            if reason is not None and (record.statistics.moments is not None or record.reason == NOT_REACHED):
                record.statistics, record.reason = self._record(record.site, gradient=True).statistics, reason

    def expect_value(self, site: Site, reason: str) -> None:
        """Make a row for a site, null for `reason` until its tensor comes."""
        self.values.setdefault(site.key, self._record(site, gradient=False, reason=reason))

    def expect_gradient(self, site: Site, reason: str) -> None:
        """Make a row for dL/d(site), null for `reason` until its gradient comes."""
        self.gradients.setdefault(site.key, self._record(site, gradient=True, reason=reason))

    def withdraw(self, site: Site) -> None:
        """Remove the rows of a site."""
        self.values.pop(site.key, None)
        self.gradients.pop(site.key, None)

    def unscaled(self, gradient: Tensor) -> Tensor:
        """Return a gradient of the loss itself; half precision is widened first, as its small values would be lost."""
        return unscaled(gradient, self.loss_scale)

    def activations_block(self, order: Mapping[str, int]) -> Block:
        """Return the rows of the table `activations`."""
        return self._block("activations", self.values.values(), order)

    def gradients_block(self, order: Mapping[str, int]) -> Block:
        """Return the rows of the table `gradients` of kind "site"."""
        return self._block("gradients", self.gradients.values(), order)

    def _block(self, table: str, records: Collection[Record], order: Mapping[str, int]) -> Block:
        return block_of(
            keys_of(table, [each.site for each in records], order),
            [each.statistics for each in records],
            [each.reason for each in records],
            table=table,
            per_channel=self.per_channel if table == "activations" else self.gradient_per_channel,
        )

    def _record(self, site: Site, *, gradient: bool, reason: str | None = None) -> Record:
        per_channel = self.gradient_per_channel if gradient else self.per_channel
        return Record.of(site, gradient=gradient, per_channel=per_channel, reason=reason)

    def _reduce(self, tensor: Tensor, site: Site, *, gradient: bool) -> stats.Reduced:
        """Reduce a tensor, or hand back the last reduction if it was of this very tensor.

        The activation of one layer usually is the input of the next one, and so are their gradients.
        """
        # Kept for one tensor only: the input of a layer comes right after the output that it is.
        last = self._last.get(gradient)
        if last is not None and last.fits(tensor, site):
            return last.reduced
        values = self.unscaled(tensor) if gradient else tensor
        reduced = stats.reduce(
            values if values.ndim else values.reshape(1),
            channel_axis=site.axis if tensor.ndim else 0,
            saturation=None if gradient else site.asymptotes,
            histogram=self.gradient_histogram if gradient else self.histogram,
        )
        self._last[gradient] = _Reduction(tensor, site, reduced)
        return reduced


class _Reduction:
    """The statistics of a tensor, as long as it is the same tensor, unwritten, read along the same channel axis."""

    def __init__(self, tensor: Tensor, site: Site, reduced: stats.Reduced) -> None:
        self._tensor, self._version = weakref.ref(tensor), version_of(tensor)
        self._content = content_of(tensor)  # a write through `.data` or numpy leaves the version as it was
        self._axis = site.axis
        self._asymptotes = site.asymptotes
        self.reduced = reduced

    def fits(self, tensor: Tensor, site: Site) -> bool:
        """Return whether the statistics are those of `tensor` at `site` too."""
        return (
            self._tensor() is tensor
            and not tensor.is_inference()
            and self._version == version_of(tensor)
            and (tensor.ndim == 0 or self._axis % tensor.ndim == site.axis % tensor.ndim)
            and site.asymptotes in (None, self._asymptotes)
            and self._content == content_of(tensor)
        )


def unscaled(gradient: Tensor, loss_scale: float | Tensor | None) -> Tensor:
    """Return a gradient of the loss itself; half precision is widened first, as its small values would be lost."""
    if loss_scale is None:
        return gradient
    wide = gradient if gradient.dtype in (torch.float32, torch.float64) else gradient.float()
    return wide / loss_scale


def keys_of(table: str, sites: Sequence[Site], order: Mapping[str, int]) -> dict[str, list[Any]]:
    """Return the columns that name the rows of sites in a table."""
    columns: dict[str, list[Any]] = {
        "layer": [site.layer for site in sites],
        "layer_index": [order[site.layer] for site in sites],
        "call": [site.call for site in sites],
    }
    names = [site.site for site in sites]
    if table == "activations":
        return columns | {"site": names, "source": [site.source for site in sites]}
    return columns | {"of": names, "kind": ["site"] * len(names)}


def block_of(
    keys: Mapping[str, list[Any]],
    statistics: Sequence[Statistics],
    reasons: Sequence[str | None],
    *,
    table: str,
    per_channel: bool,
) -> Block:
    """Return rows of a table: what names them, and what was measured or why nothing was."""
    columns: dict[str, list[Any]] = {
        **keys,
        "null_reason": [each.reason(other) for each, other in zip(statistics, reasons, strict=True)],
        BOUNDED: [each.bounded for each in statistics],
        "histogram": [each.histogram for each in statistics],
    }
    own = [per_channel and not each.pooled for each in statistics]
    for name, chosen in ((PACKED, False), (PACKED_CHANNELS, True)):
        if chosen in own:
            columns[name] = [each.moments if has is chosen else None for each, has in zip(statistics, own, strict=True)]
    return Block(table, columns)


def make_block(table: str, rows: list[dict[str, Any]]) -> Block:
    """Lay rows out as the columns of a table, all of them but `step`; what a row lacks is null."""
    names = schema.table_named(table).measured_columns
    return Block(table, {name: [row.get(name) for row in rows] for name in names})
