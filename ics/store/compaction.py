"""Merging the many small parts of a run that has ended into few large ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ics.schema import Table
from ics.store.layout import Part, all_parts, live_parts
from ics.store.parts import arrow_schema, with_columns, write_part

_MAX_BYTES = 128 * 2**20


def compact(folder: Path, table: Table) -> None:
    """Merge neighbouring parts of a table into parts of at most 128 MiB (before compression).

    Small tables end as one part. Larger ones end as several, each sorted in itself, because sorting a whole table
    would need several times its size in memory. Safe to be killed at any point, see `layout`.

    Raises:
        OSError, pyarrow.ArrowException: a part cannot be read or written; every row is still readable.
    """
    for group in _groups(live_parts(folder)):
        if len(group) > 1:
            _merge(group, table)
    counting = live_parts(folder)
    for part in all_parts(folder):
        if part not in counting:
            part.path.unlink(missing_ok=True)


def _groups(parts: Sequence[Part]) -> list[list[Part]]:
    """Return neighbours that together stay within the limit; a part beyond it is left alone."""
    groups: list[list[Part]] = []
    size = 0
    for part in parts:
        own = _num_bytes(part)
        if not groups or size + own > _MAX_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += own
    return groups


def _num_bytes(part: Part) -> int:
    metadata = pq.read_metadata(part.path)
    return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))


def _merge(group: Sequence[Part], table: Table) -> None:
    pieces = [pq.ParquetFile(part.path, page_checksum_verification=True).read() for part in group]
    schema = arrow_schema(table, [piece.schema for piece in pieces])
    rows = pa.concat_tables([with_columns(piece, schema) for piece in pieces])
    write_part(Part(group[0].folder, group[0].first, group[-1].last), rows, table)
