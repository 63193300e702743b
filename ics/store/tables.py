"""Reads the rows of one table of one run: only the parts that count, the columns named and the row groups needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from ics.errors import DamagedPartError, MeasurementWarning, StoreError, unknown_name
from ics.schema import Table
from ics.store.layout import Part, live_parts
from ics.store.ordering import order_of, sorted_rows
from ics.store.parts import VERSION_KEY, arrow_schema
from ics.store.run_file import check_version
from ics.store.where import Where, conjunction, parse_where

_FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)
_DISK = fs.LocalFileSystem()
_TRIES = 10  # parts vanish when they are merged, once per eight flushes; ten times in a row it is something else
# Arrow raises plain OSError and ValueError for some kinds of damage, and its own exceptions for others.
_UNREADABLE = (OSError, ValueError, pa.ArrowException)

Item = TypeVar("Item")
Result = TypeVar("Result")


def stored_schema(folder: Path, table: Table, *, skip_damaged: bool = False) -> pa.Schema:
    """Return the columns of a table as stored: those of the schema, then those that a user logged.

    Reads only the footers of the parts.
    """
    return _steadily(folder, lambda: _schema_of(table, _open(folder, table, skip_damaged=skip_damaged)))


def read_rows(
    folder: Path,
    table: Table,
    *,
    columns: Sequence[str] | None = None,
    where: Where | None = None,
    schema: pa.Schema | None = None,
    skip_damaged: bool = False,
) -> pa.Table:
    """Return rows of a table in its order, whichever parts contain them.

    Args:
        folder: folder of the table; there are no rows if it does not exist.
        table: its schema.
        columns: the columns to return, in this order; default all.
        where: see `ics.store.where.parse_where`.
        schema: the columns of several runs read together; default those of the parts.
        skip_damaged: leave out parts that cannot be read, with a warning for each.

    Raises:
        SelectionError: an unknown column or operator.
        DamagedPartError: a part cannot be read.
        SchemaVersionError: a part was written by a newer schema.
    """

    def read() -> pa.Table:
        fragments = _open(folder, table, skip_damaged=skip_damaged)
        return _read(fragments, table, columns, where, schema or _schema_of(table, fragments), skip_damaged)

    return _steadily(folder, read)


def chosen_columns(columns: Sequence[str] | str | None, *, table: str, available: Sequence[str]) -> list[str]:
    """Return the columns asked for, each once; raises `SelectionError` with near matches for an unknown one."""
    if columns is None:
        return list(available)
    names = list(dict.fromkeys([columns] if isinstance(columns, str) else columns))
    for name in names:
        if name not in available:
            raise unknown_name(f"column of {table}", str(name), available)
    return names


def _read(
    fragments: list[ds.Fragment],
    table: Table,
    columns: Sequence[str] | None,
    where: Where | None,
    schema: pa.Schema,
    skip_damaged: bool,
) -> pa.Table:
    names = chosen_columns(columns, table=table.name, available=schema.names)
    conditions = parse_where(where, table=table.name, schema=schema)
    late = [condition for condition in conditions if condition.late]
    # What Parquet's statistics cannot decide is filtered here, after reading; the rest decides what is read.
    early = conjunction(condition for condition in conditions if not condition.late)
    order = order_of(table) if len(fragments) > 1 else []  # one part is in order already
    needed = dict.fromkeys([*names, *(condition.column for condition in late), *order])
    rows = _scan(fragments, table, schema, list(needed), early, skip_damaged)
    if late:
        rows = rows.filter(conjunction(late))
    if len(fragments) > 1:
        rows = sorted_rows(rows, table)
    return rows.select(names)


def _open(folder: Path, table: Table, *, skip_damaged: bool) -> list[ds.Fragment]:
    """Return the parts that count, each with its footer read and found intact."""
    parts = live_parts(folder)
    return _each(parts, lambda part: _open_part(part, table), skip_damaged=skip_damaged)


def _open_part(part: Part, table: Table) -> ds.Fragment:
    fragment = _FORMAT.make_fragment(str(part.path), filesystem=_DISK)
    try:
        fragment.ensure_complete_metadata()
        version = int(fragment.metadata.metadata[VERSION_KEY])
    except FileNotFoundError:  # an OSError, but no damage: the part was merged meanwhile, and `_steadily` reads again
        raise
    except (*_UNREADABLE, TypeError, KeyError) as error:  # the last two: a Parquet file of another program
        raise _damaged(part.path, table, error) from None
    check_version(version, part.path)
    return fragment


def _damaged(path: Path, table: Table, error: Exception) -> DamagedPartError:
    reason = " ".join(str(error).split()) if not isinstance(error, TypeError | KeyError) else "not written by ics"
    return DamagedPartError(
        f"expected a whole Parquet part, got {path}, which is damaged or cut short ({reason}); the others stay "
        f"readable with run.table({table.name!r}, skip_damaged=True) or ics show --table {table.name} --skip-damaged"
    )


def _scan(
    fragments: list[ds.Fragment],
    table: Table,
    schema: pa.Schema,
    names: list[str],
    condition: ds.Expression | None,
    skip_damaged: bool,
) -> pa.Table:
    """Read all parts at once; if that fails, read them one by one to find the damaged one."""

    def scan(chosen: list[ds.Fragment]) -> pa.Table:
        dataset = ds.FileSystemDataset(chosen, schema, _FORMAT, filesystem=_DISK)
        return dataset.to_table(columns=names, filter=condition)

    def scan_one(fragment: ds.Fragment) -> pa.Table:
        try:
            return scan([fragment])
        except FileNotFoundError:
            raise
        except _UNREADABLE as error:
            raise _damaged(Path(fragment.path), table, error) from None

    try:
        return scan(fragments)
    except FileNotFoundError:
        raise
    except _UNREADABLE:
        pieces = _each(fragments, scan_one, skip_damaged=skip_damaged)
    return pa.concat_tables([scan([]), *pieces])  # the first gives columns and types where every part is damaged


def _each(items: Iterable[Item], read: Callable[[Item], Result], *, skip_damaged: bool) -> list[Result]:
    """Read every item; a damaged one raises, or warns if `skip_damaged`."""
    results = []
    for item in items:
        try:
            results.append(read(item))
        except DamagedPartError as error:
            if not skip_damaged:
                raise
            warnings.warn(f"left out a part and its rows: {error}", MeasurementWarning, stacklevel=2)
    return results


def _steadily(folder: Path, read: Callable[[], Result]) -> Result:
    """Read again if parts vanish meanwhile: a run that is being written merges its parts and deletes the old ones."""
    for _ in range(_TRIES):
        try:
            return read()
        except FileNotFoundError as error:
            vanished = error
    raise StoreError(
        f"the parts in {folder} vanish while they are read ({vanished}); read again when the run has ended"
    )


def _schema_of(table: Table, fragments: Iterable[ds.Fragment]) -> pa.Schema:
    return arrow_schema(table, [fragment.physical_schema for fragment in fragments])
