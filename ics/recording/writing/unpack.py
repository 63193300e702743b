"""From packed sufficient statistics to the columns of their table, on the host, for all rows of a flush at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ics import schema, stats
from ics.recording.writing.host_blocks import HostBlock, TensorCells
from ics.records import BOUNDED, PACKED, PACKED_CHANNELS
from ics.tensor_statistics import columns_that

_MOST = 32_768
_OURS = (PACKED, PACKED_CHANNELS, BOUNDED)
_NEED_ASYMPTOTES = frozenset(columns_that(need_asymptotes=True))


def unpacked(block: HostBlock) -> HostBlock:
    """Return the rows with the columns of `activations` or `gradients` in place of their packed statistics.

    Formulas: `ics.stats.columns_of`; the norm of a gradient is `sqrt(n (m2 + mean^2))`, NaN if a value was not finite.
    Cost: a few operations for each number of channels that occurs, and one step in Python for each row that has
    columns per channel.
    """
    if BOUNDED not in block.columns:
        return block
    columns = {name: cells for name, cells in block.columns.items() if name not in _OURS}
    bounded = np.array(block.columns[BOUNDED], bool)
    found: dict[str, list[TensorCells]] = {}
    for name in (PACKED, PACKED_CHANNELS):
        cells = block.columns.get(name)
        if isinstance(cells, TensorCells):
            for column, part in _columns(cells, bounded, per_channel=name == PACKED_CHANNELS).items():
                found.setdefault(column, []).append(part)
    # What a block gives as a column (the norm of a parameter's gradient) stands, and is not derived.
    for column in schema.table_named(block.table).measured_columns:
        filled = [part for part in found.get(column, ()) if len(part.rows)]
        if column not in columns and filled:
            columns[column] = TensorCells.merged(filled) if len(filled) > 1 else filled[0]
        else:
            columns.setdefault(column, [None] * block.num_rows)
    return HostBlock(block.table, columns)


def _columns(packed: TensorCells, bounded: np.ndarray, *, per_channel: bool) -> dict[str, TensorCells]:
    """Return the columns of the rows that have packed statistics."""
    groups = [
        (rows[some], torch.from_numpy(np.ascontiguousarray(stack[some])))
        for rows, stack in packed.by_shape()
        for some in _slices(*stack.shape)
    ]
    tables = [stats.columns_of(stack, per_channel=per_channel) for _, stack in groups]
    for table, (_, stack) in zip(tables, groups, strict=True):
        table["gradient_norm"] = _norms(stack)
    rows = [rows for rows, _ in groups]
    return {
        name: _cells(
            rows,
            [table[name].numpy() for table in tables],
            packed.num_rows,
            only=bounded if name in _NEED_ASYMPTOTES else None,
        )
        for name in tables[0]
    }


def _slices(num_rows: int, num_moments: int, num_channels: int) -> Iterator[slice]:
    """Yield slices of rows so small that torch takes one thread: the training beside it needs the others."""
    step = max(1, _MOST // max(1, num_moments * num_channels))  # a layer may have no channels
    for start in range(0, num_rows, step):
        yield slice(start, start + step)


def _norms(packed: torch.Tensor) -> torch.Tensor:
    """Return the l2 norm of each row's values, (S,); NaN if a value is not finite, as the norm is then undefined."""
    rows = dict(zip(stats.PACKED, packed.unbind(1), strict=True))
    count, mean = rows["count"], rows["mean"]
    squares = torch.where(count > 0, count * (rows["m2"] + mean * mean), 0.0).sum(-1)
    return torch.where(rows["nonfinite_count"].sum(-1) > 0, torch.nan, squares.sqrt())


def _cells(rows: list[np.ndarray], cells: list[np.ndarray], num_rows: int, *, only: np.ndarray | None) -> TensorCells:
    """Combine the cells of groups of rows into one column; `only` marks the rows of the block that have a value."""
    if only is not None:
        cells = [group[only[own]] for group, own in zip(cells, rows, strict=True)]
        rows = [own[only[own]] for own in rows]
    every = np.concatenate(rows)
    order = np.argsort(every, kind="stable")
    if all(group.ndim == 1 for group in cells):
        return TensorCells(every[order], np.concatenate(cells)[order], [()] * len(every), {}, num_rows)
    lists = [cell for group in cells for cell in group]
    ordered = [lists[number] for number in order.tolist()]
    values = np.concatenate(ordered) if ordered else np.zeros(0)
    return TensorCells(every[order], values, [cell.shape for cell in ordered], {}, num_rows)
