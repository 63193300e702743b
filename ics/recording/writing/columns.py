"""From rows on the host to the columns that are written: whole columns at a time, without a loop over cells.

This runs in a thread that shares the interpreter with the training: while it runs Python code, the training waits.
Numpy and Arrow work on whole columns and let the training run meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ics import schema
from ics.buckets import NUM_BUCKETS, OVERFLOW
from ics.recording.writing.host_blocks import HostBlock, TensorCells
from ics.recording.writing.unpack import unpacked
from ics.tensor_statistics import TENSOR_STATISTICS

Columns = dict[str, Any]  # Arrow arrays; a list where its cells have no type in common

_UNDEFINED = "no channel varies on both sides, or a value is not finite"
_EMPTY = "no finite values"
_STACKED = 64
_DISTANCES = tuple(column.name for column in schema.DRIFT.values if column.dtype == "float64")
_REAL = tuple(each.column for each in TENSOR_STATISTICS if each.is_real)


def host_columns(block: HostBlock, table: schema.Table) -> Columns:
    """Return the rows of a table as Arrow columns.

    A dense histogram becomes its non-empty buckets. Moments of no values, and distances that no channel defines,
    become null with their reason. Integer columns are integers, whatever the tensors were.
    """
    block = unpacked(block)
    columns: Columns = {}
    for name, cells in block.columns.items():
        if name == "histogram" and isinstance(cells, TensorCells):
            continue  # below
        whole = name in table.column_names and "int64" in table.column(name).dtype  # a wide table has more columns
        columns[name] = _column(cells, whole=whole)
    dense = block.columns.get("histogram")
    if isinstance(dense, TensorCells):
        columns["histogram_bucket"], columns["histogram"] = sparse_histograms(dense)
    if "count" in columns and "mean" in columns:
        _nullify_empty(columns)
    if block.table == "drift":
        _nullify_undefined(columns)
    return columns


def as_lists(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return columns as lists of cells: numbers, strings, None for null, and numpy arrays where cells are lists."""
    return {name: cells if isinstance(cells, list) else _as_list(cells) for name, cells in columns.items()}


def _as_list(cells: pa.Array) -> list[Any]:
    return list(cells.to_numpy(zero_copy_only=False)) if pa.types.is_list(cells.type) else list(cells.to_pylist())


def sparse_histograms(cells: TensorCells) -> tuple[pa.ListArray, pa.ListArray]:
    """Return dense histograms as the numbers of their non-empty buckets, ascending, and the counts in them."""
    dense = cells.arrays()
    found = [_filled(start, dense[start : start + _STACKED]) for start in range(0, len(cells.rows), _STACKED)]
    rows, buckets, counts = (np.concatenate(column) for column in zip(*found, strict=True))
    sizes = np.bincount(rows, minlength=len(cells.rows))
    return (
        _list_array(cells.rows, sizes, buckets - OVERFLOW, cells.num_rows),
        _list_array(cells.rows, sizes, counts.astype(np.int64, copy=False), cells.num_rows),
    )


def _filled(start: int, dense: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, place and content of each non-empty bucket. The rows are few, so that they stay in the cache."""
    stack = np.concatenate(dense)
    filled = np.flatnonzero(stack)
    rows, buckets = np.divmod(filled, NUM_BUCKETS)
    return rows + start, buckets, stack[filled]


def _column(cells: list[Any] | TensorCells, *, whole: bool) -> pa.Array:
    if not isinstance(cells, TensorCells):
        return _plain(cells)
    if cells.others or len({len(shape) for shape in cells.shapes}) > 1:
        return _plain([cell.item() if getattr(cell, "shape", None) == () else cell for cell in cells.cells()])
    values = cells.flat.astype(np.int64 if whole else np.float64, copy=False)
    if cells.shapes[0]:
        return _list_array(cells.rows, cells.sizes, values, cells.num_rows)
    if len(cells.rows) == cells.num_rows:
        return pa.array(values)
    spread, missing = np.zeros(cells.num_rows, values.dtype), np.ones(cells.num_rows, bool)
    spread[cells.rows], missing[cells.rows] = values, False
    return pa.array(spread, mask=missing, from_pandas=False)  # pandas would make null of NaN, which is a value here


def _plain(cells: list[Any]) -> pa.Array | list[Any]:
    try:
        return pa.array(cells, from_pandas=False)
    except pa.ArrowException:
        return cells  # the writer says which cell is the mistake


def _list_array(rows: np.ndarray, sizes: np.ndarray, values: np.ndarray, num_rows: int) -> pa.ListArray:
    """Return a column of lists: `rows` hold `sizes` of the `values`, one after another; all other rows are null."""
    lengths, missing = np.zeros(num_rows, np.int64), np.ones(num_rows, bool)
    lengths[rows], missing[rows] = sizes, False
    offsets = np.zeros(num_rows + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    mask = pa.array(missing) if missing.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values), mask=mask)


def _nullify_empty(columns: Columns) -> None:
    """Set the moments of rows without a finite value to null, with the reason: no values have no mean."""
    empty = pc.fill_null(pc.equal(columns["count"], 0), False)
    if not pc.any(empty).as_py():
        return
    reasons = _reasons(columns, len(empty))
    unexplained = pc.and_(empty, pc.is_null(reasons))
    columns["null_reason"] = pc.if_else(unexplained, _EMPTY, reasons)
    for name in _REAL:
        if name in columns:
            columns[name] = _null_where(empty, columns[name])


def _nullify_undefined(columns: Columns) -> None:
    """Set distances that are defined for no channel to null, with the reason."""
    given = [name for name in _DISTANCES if name in columns and not pa.types.is_null(columns[name].type)]
    if not given:
        return
    undefined = {name: pc.fill_null(pc.is_nan(columns[name]), False) for name in given}
    distances, floors = np.zeros((2, len(columns[given[0]])), bool)
    for name, where in undefined.items():
        columns[name] = _null_where(where, columns[name])
        found = floors if name.startswith("floor_") else distances
        found |= where.to_numpy(zero_copy_only=False)
    reasons = _reasons(columns, len(floors)).to_pylist()
    for row in np.flatnonzero(distances | floors).tolist():
        whys = [reasons[row], distances[row] and _UNDEFINED, floors[row] and f"floor: {_UNDEFINED}"]
        reasons[row] = "; ".join(filter(None, whys))
    columns["null_reason"] = pa.array(reasons, pa.string())


def _reasons(columns: Columns, num_rows: int) -> pa.Array:
    return columns.get("null_reason", pa.nulls(num_rows)).cast(pa.string())


def _null_where(where: pa.Array, cells: pa.Array) -> pa.Array:
    return pc.if_else(where, pa.scalar(None, cells.type), cells)
