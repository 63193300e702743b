"""The statistics of the rows of one table in one step: row by row, or as one tensor of those measured together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ics import stats
from ics.probes.following.site_statistics import Statistics, block_of
from ics.records import BOUNDED, PACKED, Block, Stacked


class TableRows:
    """Takes what passes give, in their order.

    Args:
        bounded: of each row, whether it is of an activation function with asymptotes.
        per_channel: whether the rows are to have columns per channel; if not, only pooled statistics are kept.
    """

    def __init__(self, bounded: Sequence[bool], *, per_channel: bool) -> None:
        self._bounded, self._per_channel = bounded, per_channel
        self._alone: dict[int, Statistics] = {}
        self._together: tuple[Mapping[int, int], Tensor, Tensor | None] | None = None

    def add(self, row: int, reduced: stats.Reduced) -> None:
        """Take the statistics of a row in one pass."""
        if self._together is not None and row in self._together[0]:
            self._separate()
        self._statistics(row).add(reduced)

    def add_together(self, places: Mapping[int, int], measured: stats.GroupStatistics) -> None:
        """Take what a group measured in one pass; `places` are row to number in the group."""
        moments, histograms = measured.moments, measured.histograms
        earlier = self._together
        # Tensors that differ in their number of channels make no stack; and a row that was measured alone in an earlier
        # pass has to be merged with the others alone.
        if self._per_channel or not isinstance(moments, Tensor) or self._alone.keys() & places.keys():
            self._add_each(places, measured)
        elif earlier is None:
            self._together = places, moments, histograms
        elif earlier[0] == places:
            counts = None if earlier[2] is None or histograms is None else earlier[2] + histograms
            self._together = places, stats.merged(earlier[1], moments), counts
        else:
            self._separate()
            self._add_each(places, measured)

    def clear(self) -> None:
        """Drop everything."""
        self._alone.clear()
        self._together = None

    def discard(self, rows: Iterable[int]) -> None:
        """Drop the statistics of these rows."""
        for row in rows:
            self._separate()
            self._alone.pop(row, None)

    def block(
        self, table: str, keys: Mapping[str, list[Any]], rows: Sequence[int], reasons: Sequence[str | None]
    ) -> Block:
        """Return the rows as a block; `keys` name them, `reasons` say why a row is null if nothing was measured."""
        if self._together is None:
            found = [self._statistics(row) for row in rows]
            return block_of(keys, found, reasons, table=table, per_channel=self._per_channel)
        numbers, moments, histograms = self._together
        places = [numbers.get(row, -1) for row in rows]
        alone = {number: self._statistics(rows[number]) for number, place in enumerate(places) if place < 0}
        own: list[str | None] = [None] * len(rows)
        for number, each in alone.items():
            own[number] = each.reason(reasons[number])
        columns = {
            **keys,
            "null_reason": own,
            BOUNDED: [self._bounded[row] for row in rows],
            "histogram": [None] * len(rows),
            PACKED: Stacked(moments, places, {number: each.moments for number, each in alone.items()}),
        }
        if histograms is not None:
            columns["histogram"] = Stacked(histograms, places, {n: each.histogram for n, each in alone.items()})
        return Block(table, columns)

    def _statistics(self, row: int) -> Statistics:
        found = self._alone.get(row)
        if found is None:
            found = self._alone[row] = Statistics(bounded=self._bounded[row], per_channel=self._per_channel)
        return found

    def _separate(self) -> None:
        """Go on row by row: passes are added in their order, whichever way they were measured."""
        if self._together is not None:
            places, moments, histograms = self._together
            self._together = None
            self._add_each(places, stats.GroupStatistics(moments, histograms))

    def _add_each(self, places: Mapping[int, int], measured: stats.GroupStatistics) -> None:
        each = measured.each()
        for row, place in places.items():
            self._statistics(row).add(each[place])


def empty_block(
    table: str, keys: Mapping[str, list[Any]], bounded: Sequence[bool], reason: str, *, per_channel: bool
) -> Block:
    """Return rows of which nothing was measured, for one reason."""
    nothing = [Statistics(bounded=each) for each in bounded]
    return block_of(keys, nothing, [reason] * len(bounded), table=table, per_channel=per_channel)
