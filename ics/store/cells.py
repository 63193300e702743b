"""From cells to typed Arrow columns; a cell that does not fit the schema raises one clear sentence.

Arrow's own conversion is too lenient for a store: it cuts 3.5 to 3 for an integer column and takes True for 1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ics.errors import SelectionError, UsageError, unknown_name
from ics.schema import Column, Table

IDENTITY = ("run", "net", "seed")

_TYPES = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "list<float64>": pa.list_(pa.float64()),
    "list<int64>": pa.list_(pa.int64()),
}
_WANTED = {
    "int64": "whole numbers or None",
    "float64": "numbers or None",
    "string": "strings or None",
    "bool": "True, False or None",
    "list<float64>": "lists of numbers, or None",
    "list<int64>": "lists of whole numbers, or None",
}
_ACCEPTED: Mapping[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    "int64": (pa.types.is_integer, pa.types.is_floating),
    "float64": (pa.types.is_integer, pa.types.is_floating),
    "string": (pa.types.is_string, pa.types.is_large_string),
    "bool": (pa.types.is_boolean,),
}


def arrow_type(dtype: str) -> pa.DataType:
    """Return the Arrow type of a `dtype` of the schema."""
    return _TYPES[dtype]


def to_rows(table: Table, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Return rows of a table from one sequence of cells per column; NaN stays NaN and None becomes null.

    Raises:
        SelectionError: a column that the table does not have (wide tables take further float64 columns).
        UsageError: a key is missing or null, columns differ in length, or a cell is of another type.
    """
    lengths = {name: _length(table, name, cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(
            f"columns of {table.name} have one cell per row, got lengths {lengths}; hand in columns of equal length"
        )
    specs = {name: _spec(table, name) for name in columns}
    if any(lengths.values()):
        _check_keys(table, columns)
    arrays = {name: to_column(table.name, specs[name], cells) for name, cells in columns.items()}
    for key in table.keys:
        if key.name in arrays and arrays[key.name].null_count:
            raise UsageError(
                f"{key.name} is a key of {table.name} and expects a value in every row, got None; name the row"
            )
    return pa.table(arrays)


def to_column(table: str, column: Column, cells: Sequence[Any]) -> pa.Array:
    """Return the cells of a column; raises a `UsageError` that names the first cell of another type."""
    convert = _lists if column.dtype.startswith("list") else _flat
    try:
        # Whole columns; cell by cell, which is slow, only to name the one that is wrong.
        return convert(cells, column.dtype)
    except (ValueError, TypeError, OverflowError, pa.ArrowException):
        plain = cells.to_pylist() if isinstance(cells, pa.Array) else cells
        row, cell = _culprit(plain, column.dtype, convert)
        raise UsageError(
            f"{column.name} of {table} expects {_WANTED[column.dtype]} ({column.dtype}), "
            f"got {_shown(cell)} in row {row}; convert it before it is appended"
        ) from None


def _length(table: Table, name: str, cells: Any) -> int:
    if isinstance(cells, str | bytes | Mapping) or not hasattr(cells, "__len__"):
        raise UsageError(
            f"{name} of {table.name} expects a sequence with one cell per row, got {_shown(cells)}; type [{cells!r}]"
        )
    return len(cells)


def _spec(table: Table, name: str) -> Column:
    if name in table.column_names:
        return table.column(name)
    if not table.wide:
        raise unknown_name(f"column of {table.name}", name, table.column_names)
    if not isinstance(name, str) or not name or name in IDENTITY:
        raise SelectionError(
            f"a logged column expects a name other than {', '.join(IDENTITY)}, which tell runs apart, got {name!r}; "
            "log it under another name"
        )
    return Column(name, "float64", "logged by the user")


def _check_keys(table: Table, columns: Mapping[str, Any]) -> None:
    missing = [key.name for key in table.keys if key.name not in columns]
    if missing:
        raise UsageError(
            f"rows of {table.name} are named by {', '.join(key.name for key in table.keys)}, "
            f"got none of {', '.join(missing)}; add {'it' if len(missing) == 1 else 'them'}"
        )


def _flat(cells: Sequence[Any] | np.ndarray | pa.Array, dtype: str) -> pa.Array:
    array = cells if isinstance(cells, pa.Array | pa.ChunkedArray) else pa.array(cells, from_pandas=False)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    # A column of nulls alone has a type of its own, which no column of the schema accepts.
    if len(array) > array.null_count and not any(accepts(array.type) for accepts in _ACCEPTED[dtype]):
        raise TypeError
    # A float64 holds every count that occurs, so the check for integers that it would round is not wanted.
    return array.cast(_TYPES[dtype], safe=dtype != "float64")


def _lists(cells: Sequence[Any] | pa.Array, dtype: str) -> pa.Array:
    item = dtype.removeprefix("list<").removesuffix(">")
    if isinstance(cells, pa.Array) and pa.types.is_null(cells.type):
        return pa.nulls(len(cells), _TYPES[dtype])
    if isinstance(cells, pa.ListArray):
        if len(cells.values) > cells.values.null_count and not any(
            fits(cells.type.value_type) for fits in _ACCEPTED[item]
        ):
            raise TypeError
        return cells.cast(_TYPES[dtype], safe=item != "float64")
    given = [cell for cell in cells if cell is not None]
    if any(isinstance(cell, str | bytes | Mapping) or not hasattr(cell, "__len__") for cell in given):
        raise TypeError
    offsets = np.cumsum([0, *(0 if cell is None else len(cell) for cell in cells)], dtype=np.int32)
    mask = pa.array([cell is None for cell in cells], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), _joined(given, item), type=_TYPES[dtype], mask=mask)


def _joined(lists: Sequence[Any], item: str) -> pa.Array:
    """Return the values of all lists, one after another."""
    if all(isinstance(cell, np.ndarray) and cell.ndim == 1 and cell.dtype.kind in "iuf" for cell in lists):
        filled = [cell for cell in lists if cell.size]  # an empty array is float64 and would turn the others into it
        return _flat(np.concatenate(filled) if filled else [], item)
    return pa.concat_arrays([_flat([], item), *(_flat(cell, item) for cell in lists)])


def _culprit(cells: Sequence[Any], dtype: str, convert: Callable[[Sequence[Any], str], pa.Array]) -> tuple[int, Any]:
    """Return the first cell that does not fit, or else the first cell."""
    for row, cell in enumerate(cells):
        try:
            convert([cell], dtype)
        except (ValueError, TypeError, OverflowError, pa.ArrowException):
            return row, cell
    return 0, next(iter(cells))


def _shown(cell: Any) -> str:
    text = " ".join(line.strip() for line in repr(cell).splitlines())
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(cell).__name__})"
