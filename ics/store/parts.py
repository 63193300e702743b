"""One Parquet part: its schema, its order, and how it is written.

Rows are sorted by layer, site and the like, then by step, and written in moderate row groups, so that the least and
greatest value of each row group tell a reader which ones it need not touch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ics.schema import SCHEMA_VERSION, Table
from ics.store.cells import arrow_type
from ics.store.layout import Part, write_whole

VERSION_KEY = b"ics.schema_version"
TABLE_KEY = b"ics.table"

_GROUP_ROWS = 8192
_GROUP_BYTES = 4 * 2**20
_LEAST_GROUP_ROWS = 64


def arrow_schema(table: Table, stored: Iterable[pa.Schema] = ()) -> pa.Schema:
    """Return the columns of a table: those of the schema, then what the `stored` parts hold besides, by name."""
    fields = {column.name: pa.field(column.name, arrow_type(column.dtype)) for column in table.columns}
    further: dict[str, pa.Field] = {}
    for schema in stored:
        for field in schema:
            if field.name not in fields:
                further.setdefault(field.name, field)
    return pa.schema([*fields.values(), *(further[name].remove_metadata() for name in sorted(further))])


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
    keys = [(name, "ascending") for name in order_of(table)]
    return rows.take(pc.sort_indices(rows, sort_keys=keys))


def with_columns(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows with the columns of `schema`, null where they have none."""
    nulls = {name: pa.nulls(rows.num_rows, schema.field(name).type) for name in schema.names}
    return pa.table({name: rows[name] if name in rows.column_names else nulls[name] for name in schema.names}, schema)


def write_part(part: Part, rows: pa.Table, table: Table) -> None:
    """Write rows as one part, sorted, with every column of the table; it is there whole or not at all."""
    schema = arrow_schema(table, [rows.schema])
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), TABLE_KEY: table.name.encode()}
    rows = sorted_rows(with_columns(rows, schema), table).replace_schema_metadata(metadata)
    strings = [field.name for field in schema if pa.types.is_string(field.type)]

    def write(file: BinaryIO) -> None:
        pq.write_table(
            rows,
            file,
            row_group_size=_rows_per_group(rows),
            compression="zstd",
            use_dictionary=strings,
            column_encoding=_encodings(schema),
            write_page_checksum=True,
        )

    write_whole(part.path, write)


def _encodings(schema: pa.Schema) -> dict[str, str]:
    """Numbers are split by byte: against plain values a quarter smaller under zstd, and faster to read."""
    encodings = {}
    for field in schema:
        if pa.types.is_list(field.type):
            encodings[f"{field.name}.list.element"] = "BYTE_STREAM_SPLIT"
        elif not pa.types.is_string(field.type) and not pa.types.is_boolean(field.type):
            encodings[field.name] = "BYTE_STREAM_SPLIT"
    return encodings


def _rows_per_group(rows: pa.Table) -> int:
    """Return how many rows make a group of a few megabytes: rows with lists per channel are a thousand times larger."""
    per_row = max(rows.nbytes // max(rows.num_rows, 1), 1)
    return max(_LEAST_GROUP_ROWS, min(_GROUP_ROWS, _GROUP_BYTES // per_row))
