"""Merges several parts of a table into one as a stream, with no more than about a row group per part in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ics.schema import Table
from ics.store.layout import Part
from ics.store.ordering import order_by, order_of
from ics.store.parts import arrow_schema, rows_per_group, with_columns, write_pieces


def merge_parts(parts: Sequence[Part], table: Table) -> Part:
    """Write neighbouring parts as one and return it. The old parts no longer count, but are not deleted here.

    Each part is sorted. So the overall order, found from the keys alone, takes the rows of every part in sequence, and
    each part is read once from start to end.

    Raises:
        OSError, pyarrow.ArrowException: a part cannot be read or written.
    """
    files = [pq.ParquetFile(part.path, page_checksum_verification=True) for part in parts]
    try:
        target = Part(parts[0].folder, parts[0].first, parts[-1].last)
        schema = arrow_schema(table, [file.schema_arrow for file in files])
        size = rows_per_group(sum(map(_num_bytes, files)), sum(file.metadata.num_rows for file in files))
        write_pieces(target, _in_order(files, table, schema, size), schema, table, group_rows=size)
    finally:
        for file in files:
            file.close()
    return target


def _num_bytes(file: pq.ParquetFile) -> int:
    return sum(file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups))


def _in_order(files: Sequence[pq.ParquetFile], table: Table, schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    """Yield the rows of all files in the order of the table, `size` at a time."""
    names = order_of(table)
    keys = pa.concat_tables(
        with_columns(file.read([name for name in names if name in file.schema_arrow.names]), schema).select(names)
        for file in files
    )
    order = order_by(keys, names)
    del keys  # all rows of them, where everything below holds a few row groups
    ends = np.cumsum([file.metadata.num_rows for file in files])
    cursors = [_Cursor(file, schema) for file in files]
    for start in range(0, len(order), size):
        wanted = order[start : start + size]
        sources = np.searchsorted(ends, wanted, side="right")
        counts = np.bincount(sources, minlength=len(files))
        taken = pa.concat_tables(cursor.take(count) for cursor, count in zip(cursors, counts.tolist(), strict=True))
        # `taken` has the rows by source; a stable sort of the sources says where each came from in `wanted`.
        places = np.empty(len(wanted), np.int64)
        places[np.argsort(sources, kind="stable")] = np.arange(len(wanted))
        yield taken.take(pa.array(places))


class _Cursor:
    """Reads a part from start to end, one row group at a time: `iter_batches` would keep everything it has read."""

    def __init__(self, file: pq.ParquetFile, schema: pa.Schema) -> None:
        self._groups = (file.read_row_group(number, use_threads=False) for number in range(file.num_row_groups))
        self._schema = schema
        self._rest = schema.empty_table()

    def take(self, count: int) -> pa.Table:
        """Return the next `count` rows."""
        pieces, missing = [], count
        while missing > self._rest.num_rows:
            pieces.append(self._rest)
            missing -= self._rest.num_rows
            self._rest = with_columns(next(self._groups), self._schema)
        pieces.append(self._rest.slice(0, missing))
        self._rest = self._rest.slice(missing) if missing < self._rest.num_rows else self._schema.empty_table()
        return pa.concat_tables(pieces)
