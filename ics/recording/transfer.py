"""From blocks on the device to rows on the host: one copy per device and flush, none per statistic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ics import schema
from ics.buckets import OVERFLOW
from ics.records import Block

_UNDEFINED = "no channel varies on both sides, or a value is not finite"
_DISTANCES = tuple(column.name for column in schema.DRIFT.values if column.dtype == "float64")
HostColumns = dict[str, list[Any]]

_MOMENTS = frozenset(
    ["mean", "m2", "m3", "m4", "minimum", "maximum", "zero_fraction", "negative_fraction", "saturated_fraction"]
)


def to_host(blocks: Sequence[Block]) -> list[tuple[str, HostColumns]]:
    """Return each block as (table, host columns), with all tensors of a device copied in one piece.

    Values travel as float64 (float32 on devices without it), which holds counts below 2^53 exactly. A dense
    histogram becomes its non-empty buckets; moments of no values become null with their reason.
    """
    tensors = [
        cell for block in blocks for cells in block.columns.values() for cell in cells if isinstance(cell, Tensor)
    ]
    arrays = iter(_copy(tensors))
    return [(block.table, _host_columns(block, arrays)) for block in blocks]


def _copy(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Copy tensors to the host, one transfer per device, and return them in the order given."""
    by_device: dict[torch.device, list[int]] = {}
    for position, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(position)
    arrays: dict[int, np.ndarray] = {}
    for device, positions in by_device.items():
        wide = torch.float32 if device.type == "mps" else torch.float64
        flat = torch.cat([tensors[position].detach().reshape(-1).to(wide) for position in positions]).cpu().numpy()
        ends = np.cumsum([tensors[position].numel() for position in positions])
        for position, piece in zip(positions, np.split(flat, ends[:-1]), strict=True):
            arrays[position] = piece if tensors[position].ndim else piece[0]
    return [arrays[position] for position in range(len(tensors))]


def _host_columns(block: Block, arrays: Iterable[np.ndarray]) -> HostColumns:
    arrays = iter(arrays)
    table = schema.table_named(block.table)
    columns: HostColumns = {}
    for name, cells in block.columns.items():
        whole = name in table.column_names and "int64" in table.column(name).dtype  # a wide table has more columns
        host = [next(arrays) if isinstance(cell, Tensor) else cell for cell in cells]
        columns[name] = [_as_whole(cell) if whole else _as_plain(cell) for cell in host]
    if "histogram" in columns:
        _make_sparse(columns)
    if "count" in columns and "mean" in columns:
        _nullify_empty(columns)
    if block.table == "drift":
        _nullify_undefined(columns)
    return columns


def _as_whole(cell: Any) -> Any:
    if isinstance(cell, np.ndarray):
        return cell.astype(np.int64)
    return None if cell is None else int(cell)


def _as_plain(cell: Any) -> Any:
    return float(cell) if isinstance(cell, np.floating) else cell


def _make_sparse(columns: HostColumns) -> None:
    """Replace dense histograms by the numbers of the non-empty buckets and their counts."""
    buckets, counts = [], []
    for cell in columns["histogram"]:
        filled = None if cell is None else np.flatnonzero(cell)
        buckets.append(None if filled is None else filled - OVERFLOW)
        counts.append(None if filled is None else cell[filled])
    columns["histogram_bucket"], columns["histogram"] = buckets, counts


def _nullify_empty(columns: HostColumns) -> None:
    """Give rows without a finite value null moments and the reason: no values have no mean."""
    reasons = columns.setdefault("null_reason", [None] * len(columns["count"]))
    for row, count in enumerate(columns["count"]):
        if count == 0:
            reasons[row] = reasons[row] or "no finite values"
            for name in _MOMENTS & columns.keys():
                columns[name][row] = None


def _nullify_undefined(columns: HostColumns) -> None:
    """Give distances that are defined for no channel null, and the reason."""
    for row, reason in enumerate(columns["null_reason"]):
        undefined = [name for name in _DISTANCES if columns[name][row] is not None and math.isnan(columns[name][row])]
        floors = [name for name in undefined if name.startswith("floor_")]
        whys = [reason, _UNDEFINED if len(undefined) > len(floors) else None, floors and f"floor: {_UNDEFINED}"]
        columns["null_reason"][row] = "; ".join(filter(None, whys)) or None
        for name in undefined:
            columns[name][row] = None
