"""Writes a run: collects rows, flushes them as immutable parts, and merges the parts so that they stay few."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from ics.errors import MeasurementWarning, StoreError, UsageError
from ics.schema import SCHEMA_VERSION, TABLES, Table, table_named
from ics.store.cells import to_rows
from ics.store.compaction import compact, merge_due
from ics.store.layout import RUN_FILE, Part, all_parts, remove_table
from ics.store.parts import write_part
from ics.store.run_file import own_tables, to_json, write_run_file

RUNNING = "running"
_OWN_FIELDS = ("schema_version", "state", "ended")


class Writer:
    """Writes one run.

    Flushed rows survive anything that happens to the process; rows that were only appended do not.

    Args:
        path: folder of the run; created if it does not exist.
        info: fields of run.json; `schema_version`, `state`, `started` and `ended` are added.
        overwrite: whether an existing run may be replaced. Only files that belong to a run are removed.
        tables: tables in addition to those of the schema; run.json describes them in the field `tables`.

    Raises:
        UsageError: there is a run already, `path` is a file, or `info` contains something that JSON cannot hold.
        StoreError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> writer = Writer(Path(tempfile.mkdtemp()) / "run", info={"config": {"seed": 0}})
        >>> writer.append("steps", {"step": [0, 1], "loss": [2.5, float("nan")], "accuracy": [0.1, None]})
        >>> writer.close()
    """

    def __init__(
        self, path: str | Path, *, info: Mapping[str, Any], overwrite: bool = False, tables: Iterable[Table] = ()
    ) -> None:
        self.path = Path(path)
        own = {table.name: table for table in tables}
        self.tables: Mapping[str, Table] = {**TABLES, **own}
        self._info = {
            "schema_version": SCHEMA_VERSION,
            "state": RUNNING,
            "started": _now(),
            "ended": None,
            **_checked(info),
            **({"tables": {name: table.as_json() for name, table in own.items()}} if own else {}),
        }
        self._pending: dict[str, tuple[int, list[pa.Table]]] = {}  # number of the next part, and its rows
        self._unmergeable: set[str] = set()
        self._closed = False
        _prepare_folder(self.path, overwrite=overwrite, tables=self.tables)
        self._write_info()

    def append(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Keep rows until the next flush.

        Args:
            table: name of a table of the schema, or of `tables`.
            columns: column name to one cell per row, on the host: numbers, strings, None for null, and lists or
                arrays in list columns. Value columns may be left out. A wide table takes further columns of numbers.

        Raises:
            SelectionError: an unknown table or column.
            UsageError: cells of the wrong type, a missing key, unequal lengths, or a closed writer.
        """
        self._check_open()
        rows = to_rows(table_named(table, self.tables), columns)
        if rows.num_rows:
            self._pending.setdefault(table, (0, []))[1].append(rows)

    def flush(self, only: str | None = None) -> None:
        """Write what was appended, one part per table, and merge parts where there are many of a size.

        Args:
            only: the one table to write; default all.

        Raises:
            StoreError: a part cannot be written; its rows stay pending and the next flush tries again.
        """
        self._check_open()
        for name, (number, rows) in self._pending.items():
            if rows and only in (None, name):
                self._write_part(self.tables[name], number, pa.concat_tables(rows, promote_options="default"))
                # One assignment forgets the rows and counts the part. A flush that is interrupted before it and tried
                # again writes the same part anew, so that its rows are neither lost nor doubled.
                self._pending[name] = number + 1, []
                self._merge_due(name)

    def forget(self, table: str) -> None:
        """Drop the rows of a table that were appended and not yet written."""
        if table in self._pending:
            self._pending[table] = self._pending[table][0], []

    @property
    def pending_bytes(self) -> int:
        """Bytes of memory taken by rows that were appended and not yet written."""
        return sum(table.nbytes for _, rows in self._pending.values() for table in rows)

    def update_info(self, **fields: Any) -> None:
        """Set fields of run.json and write the file."""
        self._check_open()
        self._info |= _checked(fields)
        self._write_info()

    def close(self, state: str = "completed") -> None:
        """Flush, write the end state, and merge the parts of each table; safe to call twice.

        The state is written before the parts are merged, so that a run killed while merging does not look unfinished.
        Parts that cannot be merged stay as they are, with a warning; every row is readable either way.

        Args:
            state: how the run ended: `completed`, `failed`, `interrupted`.
        """
        if self._closed:
            return
        if state == RUNNING:
            raise UsageError(f'close expects how the run ended, got {state!r}; type close("completed")')
        self.flush()
        self._info |= {"state": state, "ended": _now()}
        self._write_info()
        self._closed = True
        for name in self._pending:
            self._compact(self.tables[name])

    def _write_part(self, table: Table, number: int, rows: pa.Table) -> None:
        part = Part(self.path / table.name, number, number)
        try:
            part.folder.mkdir(exist_ok=True)
            write_part(part, rows, table)
        except OSError as error:
            raise StoreError(
                f"{part.path} could not be written ({error}); its rows stay in memory, make room and flush again"
            ) from error

    def _merge_due(self, name: str) -> None:
        """Keep parts few while the run goes on. Parts that cannot be merged are left to `close`, which warns."""
        if name in self._unmergeable:
            return
        try:
            merge_due(self.path / name, self.tables[name])
        except (OSError, pa.ArrowException):
            self._unmergeable.add(name)  # a damaged part would fail every flush anew, after reading all the others

    def _compact(self, table: Table) -> None:
        try:
            compact(self.path / table.name, table)
        except (OSError, pa.ArrowException) as error:
            warnings.warn(
                f"the parts of {table.name} in {self.path} could not be merged ({error}); they stay as they are and "
                "every row is readable, only more slowly",
                MeasurementWarning,
                stacklevel=3,
            )

    def _write_info(self) -> None:
        try:
            write_run_file(self.path, self._info)
        except OSError as error:
            raise StoreError(
                f"{self.path / RUN_FILE} could not be written ({error}); make room or choose a folder you may write to"
            ) from error

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"the run {self.path} was closed and takes no more rows; open a writer for another folder")


def _checked(info: Mapping[str, Any]) -> dict[str, Any]:
    own = [name for name in _OWN_FIELDS if name in info]
    if own:
        raise UsageError(f"the writer itself writes {', '.join(own)} into run.json, got it in info; leave it out")
    return to_json(info)


def _prepare_folder(path: Path, *, overwrite: bool, tables: Iterable[str]) -> None:
    """Create the folder of a run, or clear it of the run that is there."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"a run is written to a folder, got the file {path}; choose another path")
    there = [*TABLES, *own_tables(path)]
    taken = (path / RUN_FILE).exists() or any(all_parts(path / name) for name in there)
    if taken and not overwrite:
        raise UsageError(
            f"expected a folder without a run, got {path}, which holds one; pass overwrite=True to replace it, "
            "or choose another folder"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        # First, so that a folder cleared in part is never taken for the run it was.
        (path / RUN_FILE).unlink(missing_ok=True)
        for name in {*there, *tables}:
            remove_table(path / name)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error}); choose a folder you may write to") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
