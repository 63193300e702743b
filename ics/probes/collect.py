"""Accumulates the statistics of sites over the passes of a step and lays them out as blocks."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ics import schema, stats
from ics.probes.sites import Site
from ics.probes.tensors import version_of
from ics.records import Block

_CHANNEL_COLUMNS = frozenset(name for name in schema.ACTIVATIONS.column_names if name.startswith("channel_"))

Reduced = tuple[stats.Moments, Tensor | None]


@dataclass
class Statistics:
    """Moments and histogram of one site, over all passes so far."""

    moments: stats.Moments | None = None
    histogram: Tensor | None = None
    pooled: bool = False

    def add(self, moments: stats.Moments, histogram: Tensor | None) -> None:
        """Merge the statistics of another pass; where the number of channels differs only the pooled ones are kept."""
        if self.moments is None:
            self.moments, self.histogram = moments, histogram
            return
        if self.pooled or self.moments.count.shape != moments.count.shape:
            self.moments, moments, self.pooled = _as_one_channel(self.moments), _as_one_channel(moments), True
        self.moments = stats.merge(self.moments, moments)
        if self.histogram is not None and histogram is not None:
            self.histogram = self.histogram + histogram

    def cells(self, *, per_channel: bool) -> dict[str, Any]:
        """Return the columns of the moments and the histogram."""
        if self.moments is None:
            return {}
        cells: dict[str, Any] = {**stats.columns(self.moments), "histogram": self.histogram}
        if not per_channel or self.pooled:
            cells = {name: cell for name, cell in cells.items() if name not in _CHANNEL_COLUMNS}
        if self.pooled:
            cells["null_reason"] = "the number of channels differs between the passes of the step"
        return cells


@dataclass
class Record:
    """One row: a site, what was measured there, and why if nothing was."""

    site: Site
    statistics: Statistics = field(default_factory=Statistics)
    reason: str | None = None


@dataclass
class Collector:
    """The rows of one armed step.

    Args:
        histogram: whether to count histograms.
        per_channel: whether to keep the channels' columns.
        loss_scale: what the loss was multiplied by before the backward pass; gradients are divided by it.
    """

    histogram: bool
    per_channel: bool
    loss_scale: float | Tensor | None
    values: dict[tuple[str, int, str], Record] = field(default_factory=dict)
    gradients: dict[tuple[str, int, str], Record] = field(default_factory=dict)
    _last: dict[bool, _Reduction] = field(default_factory=dict)

    def add_value(self, site: Site, tensor: Tensor) -> None:
        """Take the tensor of a site into account."""
        record = self.values.setdefault(site.key, Record(site))
        record.statistics.add(*self._reduce(tensor, site, gradient=False))

    def add_gradient(self, site: Site, gradient: Tensor) -> None:
        """Take dL/d(site) into account, if it is expected: its site may have been withdrawn since."""
        record = self.gradients.get(site.key)
        if record is not None:
            record.statistics.add(*self._reduce(gradient, site, gradient=True))

    def expect_value(self, site: Site, reason: str) -> None:
        """Make a row for a site, null for `reason` until its tensor comes."""
        self.values.setdefault(site.key, Record(site, reason=reason))

    def expect_gradient(self, site: Site, reason: str) -> None:
        """Make a row for dL/d(site), null for `reason` until its gradient comes."""
        self.gradients.setdefault(site.key, Record(site, reason=reason))

    def withdraw(self, site: Site) -> None:
        """Remove the rows of a site."""
        self.values.pop(site.key, None)
        self.gradients.pop(site.key, None)

    def unscaled(self, gradient: Tensor) -> Tensor:
        """Return a gradient of the loss itself; half precision is widened first, as its small values would be lost."""
        if self.loss_scale is None:
            return gradient
        wide = gradient if gradient.dtype in (torch.float32, torch.float64) else gradient.float()
        return wide / self.loss_scale

    def activations_block(self, order: Mapping[str, int]) -> Block:
        """Return the rows of the table `activations`."""
        return make_block("activations", [self._row(record, order) for record in self.values.values()])

    def gradients_block(self, order: Mapping[str, int]) -> Block:
        """Return the rows of the table `gradients` of kind "site"."""
        rows = []
        for record in self.gradients.values():
            row = self._row(record, order)
            row |= {"of": record.site.site, "kind": "site"}
            if record.statistics.moments is not None:
                row["gradient_norm"] = _norm(record.statistics.moments)
            rows.append(row)
        return make_block("gradients", rows)

    def _row(self, record: Record, order: Mapping[str, int]) -> dict[str, Any]:
        site, cells = record.site, record.statistics.cells(per_channel=self.per_channel)
        key = {"layer": site.layer, "layer_index": order[site.layer], "call": site.call, "site": site.site}
        reason = record.reason if record.statistics.moments is None else None
        return {**key, "source": site.source, "null_reason": reason, **cells}

    def _reduce(self, tensor: Tensor, site: Site, *, gradient: bool) -> Reduced:
        """Reduce a tensor, or hand back the last reduction if it was of this very tensor.

        The activation of one layer usually is the input of the next one, and so are their gradients.
        """
        last = self._last.get(gradient)
        if last is not None and last.fits(tensor, site):
            saturated = None if site.asymptotes is None else last.moments.saturated_count
            return dataclasses.replace(last.moments, saturated_count=saturated), last.histogram
        values = self.unscaled(tensor) if gradient else tensor
        values = values if values.ndim else values.reshape(1)
        moments = stats.channel_moments(
            values, channel_axis=site.axis if tensor.ndim else 0, saturation=None if gradient else site.asymptotes
        )
        counts = stats.histogram(values) if self.histogram else None
        self._last[gradient] = _Reduction(tensor, site, moments, counts)
        return moments, counts


class _Reduction:
    """The statistics of a tensor, as long as it is the same tensor, unwritten, read along the same channel axis."""

    def __init__(self, tensor: Tensor, site: Site, moments: stats.Moments, histogram: Tensor | None) -> None:
        self._tensor, self._version = weakref.ref(tensor), version_of(tensor)
        self._axis = site.axis
        self.moments, self.histogram = moments, histogram

    def fits(self, tensor: Tensor, site: Site) -> bool:
        """Return whether the statistics are those of `tensor` at `site` too."""
        return (
            self._tensor() is tensor
            and not tensor.is_inference()
            and self._version == version_of(tensor)
            and (tensor.ndim == 0 or self._axis % tensor.ndim == site.axis % tensor.ndim)
        )


def make_block(table: str, rows: list[dict[str, Any]]) -> Block:
    """Lay rows out as the columns of a table, all of them but `step`; what a row lacks is null."""
    names = [name for name in schema.table_named(table).column_names if name != "step"]
    return Block(table, {name: [row.get(name) for row in rows] for name in names})


def _as_one_channel(moments: stats.Moments) -> stats.Moments:
    pooled = stats.pool(moments)
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(pooled):
        value = getattr(pooled, item.name)
        flat[item.name] = value if value is None else value.reshape(1)
    return dataclasses.replace(pooled, **flat)


def _norm(moments: stats.Moments) -> Tensor:
    """l2 norm from the moments; NaN where a value is not finite, as no number would be its norm."""
    m = stats.pool(moments)
    norm = (m.count * (m.m2 + m.mean**2)).sqrt()
    return torch.where(m.nonfinite_count > 0, torch.nan, norm)
