"""Writes rows that have reached the host, and keeps errors until the training thread asks for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from ics.errors import StoreError
from ics.recording.writing.columns import Columns, host_columns
from ics.recording.writing.transfer import Sent, receive
from ics.store import Writer

_KEPT_BYTES = 2**30


class DiskWriter:
    """Turns rows into columns and writes them. Raises nothing: the user would not see an error of the thread.

    Rows that the disk does not take are kept, up to 1 GiB. After that, further rows are dropped, with a warning and a
    note in run.json: a training must neither wait for a disk for ever nor run out of memory for its records.

    Args:
        writer: writes the rows.
        note: keeps a sentence for run.json.
        keep: keeps fields for run.json.

    Attributes:
        warnings: warnings for the user, oldest first.
        error: the first error that is not the disk's; only the rows of its table and flush are missing.
    """

    def __init__(self, writer: Writer, *, note: Callable[[str], None], keep: Callable[..., None]) -> None:
        self.warnings: deque[str] = deque()
        self.error: BaseException | None = None
        self._writer = writer
        self._note = note
        self._keep = keep
        self._failing = False
        self._giving_up = False
        self._num_nonfinite = 0

    def take(self, sent: Sent) -> None:
        """Wait until rows have reached the host and hand them to the writer."""
        with self._keeping_errors():
            for block in receive(sent):
                with self._keeping_errors():  # for each table: a mistake in one must not cost the rows of the others
                    self._append(block.table, host_columns(block, self._writer.tables[block.table]))

    def write(self) -> None:
        """Write what the writer holds; it keeps what cannot be written."""
        with self._keeping_errors():
            try:
                self._writer.flush()
            except (OSError, StoreError) as error:
                self._disk_failed(f"rows could not be written and are kept in memory: {error}")
            else:
                self._failing = False

    def write_info(self, fields: Mapping[str, Any]) -> bool:
        """Write fields of run.json; return False if the disk refused them, so that they should be tried again."""
        with self._keeping_errors():
            try:
                self._writer.update_info(**fields)
            except (OSError, StoreError) as error:
                self._disk_failed(str(error))
                return False
        return True

    @contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.error = self.error or error

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
        self._writer.append(table, columns)

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
