"""One Parquet part: its schema, its order, and how it is written.

Rows are sorted by layer, site and the like, then by step, and written in row groups of moderate size. A reader can
then skip row groups by their least and greatest values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ics.schema import SCHEMA_VERSION, Table
from ics.store.cells import arrow_type
from ics.store.layout import Part, write_whole
from ics.store.ordering import sorted_rows

VERSION_KEY = b"ics.schema_version"
TABLE_KEY = b"ics.table"

# A reader skips whole row groups. Small ones let it skip more, but each has a footer entry per column, read first.
_GROUP_ROWS = 8192
_GROUP_BYTES = 4 * 2**20
_LEAST_GROUP_ROWS = 64
_LEVEL = 3  # of zstd: 12 saves half a per cent and takes five times as long


def arrow_schema(table: Table, stored: Iterable[pa.Schema] = ()) -> pa.Schema:
    """Return the columns of a table: those of the schema, then other columns of the `stored` parts, by name."""
    fields = {column.name: pa.field(column.name, arrow_type(column.dtype)) for column in table.columns}
    further: dict[str, pa.Field] = {}
    for schema in stored:
        for field in schema:
            if field.name not in fields:
                further.setdefault(field.name, field)
    return pa.schema([*fields.values(), *(further[name].remove_metadata() for name in sorted(further))])


def with_columns(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows with the columns of `schema`; columns that they lack are null."""
    nulls = {name: pa.nulls(rows.num_rows, schema.field(name).type) for name in schema.names}
    return pa.table({name: rows[name] if name in rows.column_names else nulls[name] for name in schema.names}, schema)


def write_part(part: Part, rows: pa.Table, table: Table) -> None:
    """Write rows as one part, sorted, with every column of the table; the part exists whole or not at all."""
    schema = arrow_schema(table, [rows.schema])
    rows = sorted_rows(with_columns(rows, schema), table)
    write_pieces(part, [rows], schema, table, group_rows=rows_per_group(rows.nbytes, rows.num_rows))


def write_pieces(part: Part, pieces: Iterable[pa.Table], schema: pa.Schema, table: Table, *, group_rows: int) -> None:
    """Write sorted rows, piece by piece, as one part; the part exists whole or not at all."""
    # A part says its version itself: it may be read without the run.json beside it.
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), TABLE_KEY: table.name.encode()}
    schema = schema.with_metadata(metadata)

    def write(file: BinaryIO) -> None:
        with pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=_LEVEL,
            use_dictionary=[field.name for field in schema if pa.types.is_string(field.type)],
            column_encoding=_encodings(schema),
            write_page_checksum=True,
        ) as writer:
            for piece in pieces:
                writer.write_table(piece.cast(schema), row_group_size=group_rows)

    write_whole(part.path, write)


def rows_per_group(num_bytes: int, num_rows: int) -> int:
    """Return how many rows make a group of a few megabytes. Rows with lists per channel are a thousand times larger."""
    per_row = max(num_bytes // max(num_rows, 1), 1)
    return max(_LEAST_GROUP_ROWS, min(_GROUP_ROWS, _GROUP_BYTES // per_row))


def _encodings(schema: pa.Schema) -> dict[str, str]:
    """Return how numbers are encoded: PLAIN, which every reader understands, except for histogram bucket numbers.

    BYTE_STREAM_SPLIT would make a run about a tenth smaller. But Spark 3.5 and 4.0 and fastparquet refuse such
    columns, and DuckDB 1.1 refuses such columns of whole numbers (docs/reading.md). Bucket numbers ascend, so their
    differences (DELTA_BINARY_PACKED) take about half the space, and all these readers understand that encoding.
    """
    encodings = {}
    for field in schema:
        if pa.types.is_list(field.type):
            ascending = field.name == "histogram_bucket"
            encodings[f"{field.name}.list.element"] = "DELTA_BINARY_PACKED" if ascending else "PLAIN"
        elif not pa.types.is_string(field.type) and not pa.types.is_boolean(field.type):
            encodings[field.name] = "PLAIN"
    return encodings
