"""Writes rows that have reached the host, and keeps errors until the training thread asks for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from ics.errors import StoreError, UsageError
from ics.recording.writing.columns import Columns, host_columns
from ics.recording.writing.transfer import Sent, receive
from ics.store import Writer
from ics.store.cells import to_rows

_KEPT_BYTES = 2**30


class DiskWriter:
    """Turns rows into columns and writes them. Raises nothing: the user would not see an error of the thread.

    Rows that the disk does not take are kept, up to 1 GiB. After that, further rows are dropped, with a warning and a
    note in run.json: a training must neither wait for a disk for ever nor run out of memory for its records.

    Args:
        writer: writes the rows.
        note: keeps a sentence for run.json.
        keep: keeps fields for run.json.
        strict: keep the first mistake of a program as `error`. Without it, a column that cannot be written is left
            out, a table that cannot be is switched off, and either is warned of once and noted; all else goes on.

    Attributes:
        warnings: what the user is to be warned of, oldest first.
        error: the first mistake of a program that was met; the rows of its table and flush are missing, no others.
        off: tables of which nothing more is written.
    """

    def __init__(
        self, writer: Writer, *, note: Callable[[str], None], keep: Callable[..., None], strict: bool = True
    ) -> None:
        self.warnings: deque[str] = deque()
        self.error: BaseException | None = None
        self.off: set[str] = set()
        self._strict = strict
        self._left_out: set[str] = set()
        self._writer = writer
        self._note = note
        self._keep = keep
        self._failing = False
        self._giving_up = False
        self._num_nonfinite = 0

    def take(self, sent: Sent) -> None:
        """Wait until rows have reached the host and hand them to the writer."""
        with self._keeping_errors():
            for table in sent.tables:
                with self._keeping_errors(table[0]):
                    for block in receive(Sent([table])):
                        self._append(block.table, host_columns(block, self._writer.tables[block.table]))

    def write(self) -> None:
        """Write what the writer holds; what cannot be written it keeps."""
        failing = False
        for table in self._writer.tables:
            with self._keeping_errors(table):
                try:
                    self._writer.flush(table)
                except (OSError, StoreError) as error:
                    self._disk_failed(f"rows could not be written and are kept in memory: {error}")
                    failing = True
        self._failing = failing
        self._giving_up = self._giving_up and failing  # a later outage is another one, and is told again

    def write_info(self, fields: Mapping[str, Any]) -> bool:
        """Write fields of run.json; return False if the disk refused them, so that they should be tried again."""
        with self._keeping_errors():
            try:
                self._writer.update_info(**fields)
            except (OSError, StoreError) as error:
                self._disk_failed(str(error))
                return False
        return True

    def failed(self, table: str | None, error: BaseException) -> None:
        """Something of a table, or of no table that is known, could not be copied or written."""
        if self._strict or not isinstance(error, Exception):
            self.error = self.error or error
        elif table is None or table not in self.off:
            if table is not None:
                self.off.add(table)
                self._writer.forget(table)
            what = "a part of the record is missing" if table is None else f"the table {table} is switched off"
            self._warn_once(f"{what}, all else is recorded: {type(error).__name__}: {error}")

    @contextmanager
    def _keeping_errors(self, table: str | None = None) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.failed(table, error)

    def _warn_once(self, text: str) -> None:
        if text not in self._left_out:
            self._left_out.add(text)
            self.warnings.append(text)
            self._note(text)

    def _disk_failed(self, text: str) -> None:
        """Warn once, then not again until the disk takes something."""
        if not self._failing:
            self.warnings.append(text)
        self._failing = True

    def _append(self, table: str, columns: Columns) -> None:
        if table == "steps":
            self._count_nonfinite(columns)
        if self._failing and self._writer.pending_bytes > _KEPT_BYTES:
            self._give_up(columns)
            return
        try:
            self._writer.append(table, columns)
        except UsageError:
            if self._strict:
                raise
            self._writer.append(table, self._without_misfits(table, columns))

    def _without_misfits(self, table: str, columns: Columns) -> Columns:
        """Return the columns that can be written, with a warning of each of the others."""
        keys = {key.name: columns[key.name] for key in self._writer.tables[table].keys if key.name in columns}
        fitting = dict(keys)
        for name, cells in columns.items():
            if name not in keys:
                try:
                    to_rows(self._writer.tables[table], {**keys, name: cells})
                    fitting[name] = cells
                except UsageError as error:
                    if f"{table}.{name}" not in self._left_out:
                        self._left_out.add(f"{table}.{name}")
                        self._warn_once(f"{name} of {table} is left out where it cannot be written: {error}")
        return fitting

    def _give_up(self, columns: Columns) -> None:
        if not self._giving_up:
            text = (
                f"the disk has taken nothing for so long that {_KEPT_BYTES // 2**20} MiB are kept in memory; "
                f"rows from step {columns['step'][0]} on are given up until it takes something again"
            )
            self.warnings.append(text)
            self._note(text)
        self._giving_up = True

    def _count_nonfinite(self, columns: Columns) -> None:
        """Count losses that are NaN or infinite in run.json and warn once; they are stored as they are."""
        loss = columns.get("loss")
        if not isinstance(loss, pa.Array) or not pa.types.is_floating(loss.type):
            return
        bad = ~np.isfinite(loss.fill_null(0.0).to_numpy(zero_copy_only=False))
        if not bad.any():
            return
        if not self._num_nonfinite:
            step = columns["step"][int(bad.argmax())].as_py()
            text = f"the loss is not finite from step {step} on; it is recorded as it is and training goes on"
            self.warnings.append(text)
            self._note(text)
        self._num_nonfinite += int(bad.sum())
        self._keep(num_nonfinite_losses=self._num_nonfinite)
