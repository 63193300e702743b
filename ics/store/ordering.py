"""The order of rows: by layer, call, site and the like, then by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ics.schema import Table


def order_of(table: Table) -> list[str]:
    """Return the columns by which rows are sorted: layer, call, site and the like, then step.

    Tables without layers are sorted by their keys as they stand, step first.
    """
    names = [key.name for key in table.keys]
    if "layer_index" not in names:
        return names
    rest = [name for name in names if name not in ("layer_index", "layer", "step")]
    return ["layer_index", "layer", *rest, "step"]


def sorted_rows(rows: pa.Table, table: Table) -> pa.Table:
    """Return the rows in the order of the table; equal keys keep their order."""
    order = order_by(rows, order_of(table))
    if np.array_equal(order, np.arange(len(order))):
        return rows
    return rows.take(pa.array(order))


def order_by(rows: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Return the numbers of the rows in the order of some columns, ascending, null last; equal ones keep their order.

    Strings are compared as numbers: their rank among the few distinct ones. numpy's stable sort keeps sorted runs as
    they are. Together this orders merged parts several times faster than Arrow's own sort.
    """
    keys = [key for name in names for key in _as_numbers(rows[name])]
    # Reversed, as lexsort takes the most significant key last.
    return np.lexsort(keys[::-1]) if keys else np.arange(rows.num_rows)


def _as_numbers(column: pa.ChunkedArray) -> list[np.ndarray]:
    if pa.types.is_string(column.type):
        column = _places(column)
    if not column.null_count:
        return [column.to_numpy()]
    zero = pa.scalar(0, pa.int64()).cast(column.type)
    return [column.is_null().to_numpy(), column.fill_null(zero).to_numpy()]


def _places(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return for each string its rank among the distinct strings, sorted by their bytes as Arrow does."""
    encoded = column.dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return pa.chunked_array([pa.array([], pa.int64())])
    dictionary = encoded.chunk(0).dictionary
    places = np.empty(len(dictionary), np.int64)
    places[pc.sort_indices(dictionary).to_numpy()] = np.arange(len(dictionary))
    return pa.chunked_array([pa.array(places).take(chunk.indices) for chunk in encoded.chunks])
