"""Writes what came to the host, and keeps what went wrong until the training thread asks for it."""

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
    """Turns rows into columns and writes them. Raises nothing: in the thread that calls it nobody could react.

    Rows that the disk does not take are kept, up to 1 GiB. After that further rows are given up, with a warning and a
    note in run.json: a training must neither wait for a disk for ever nor run out of memory for its records.

    Args:
        writer: where rows go.
        note: keeps a sentence for run.json.
        keep: keeps fields for run.json.

    Attributes:
        warnings: what the user is to be warned of, oldest first.
        error: the first mistake of a program that was met; the rows of its table and flush are missing, no others.
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
        """Wait for rows to come to the host and hand them to the writer."""
        with self._keeping_errors():
            for block in receive(sent):
                with self._keeping_errors():
                    self._append(block.table, host_columns(block, self._writer.tables[block.table]))

    def write(self) -> None:
        """Write what the writer holds; what cannot be written it keeps."""
        with self._keeping_errors():
            try:
                self._writer.flush()
            except (OSError, StoreError) as error:
                self._disk_failed(f"rows could not be written and are kept in memory: {error}")
            else:
                self._failing = False

    def write_info(self, fields: Mapping[str, Any]) -> bool:
        """Write fields of run.json; return whether that came to an end, well or with a mistake that is kept."""
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
        """Warn once until the disk takes something again."""
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
        """A loss that is NaN or infinite is stored as it is, counted in run.json and warned about once."""
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
