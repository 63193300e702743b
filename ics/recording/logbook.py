"""What was recorded and not yet written: rows on the device, logged steps, notes; and when they go to disk."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ics import schema
from ics.errors import MeasurementWarning, StoreError
from ics.recording.transfer import to_host
from ics.records import Block
from ics.store import Writer

_SECONDS = 30.0
_VALUES = 4_000_000


class Logbook:
    """Collects blocks and step rows, and writes them with one host copy per flush.

    Flushes after `flush_every` steps, 30 seconds, or 4 million pending values, whichever comes first.
    """

    def __init__(self, writer: Writer, *, flush_every: int) -> None:
        self._writer = writer
        self._flush_every = flush_every
        self._blocks: list[Block] = []
        self._rows: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._pending_values = 0
        self._nonfinite_losses = 0
        self._flushed = time.perf_counter()
        self._closed = False

    def add(self, block: Block, *, step: int) -> None:
        """Keep the rows of a block until the next flush."""
        self._blocks.append(replace(block, columns={"step": [step] * block.num_rows, **block.columns}))
        self._pending_values += sum(
            cell.numel() for cells in block.columns.values() for cell in cells if isinstance(cell, Tensor)
        )

    def add_step(self, row: Mapping[str, Any]) -> None:
        """Keep the row of one step, and flush if it is time."""
        self._rows.append(dict(row))
        waited = time.perf_counter() - self._flushed
        if len(self._rows) >= self._flush_every or waited > _SECONDS or self._pending_values > _VALUES:
            self.flush()

    def note(self, text: str) -> None:
        """Put a sentence that the reader of the run must see into run.json."""
        self._notes.append(text)
        self.update_info(notes=self._notes)

    def update_info(self, **fields: Any) -> None:
        """Write fields of run.json."""
        self._writer.update_info(**fields)

    def flush(self) -> None:
        """Write everything pending. A full disk is warned about and tried again at the next flush."""
        self._flushed = time.perf_counter()
        if self._closed:
            return
        self._hand_over()
        try:
            self._writer.flush()
        except (OSError, StoreError) as error:
            warnings.warn(
                f"rows could not be written and are kept in memory: {error}", MeasurementWarning, stacklevel=2
            )

    def close(self, state: str) -> None:
        """Write what is left, compact the run and mark its end; safe to call twice. Errors are raised."""
        if self._closed:
            return
        self._hand_over()
        self._closed = True
        self._writer.close(state=state)

    def _hand_over(self) -> None:
        """Copy pending values to the host and hand them to the writer."""
        pending = [*self._blocks, *([self._step_block()] if self._rows else [])]
        self._blocks, self._rows, self._pending_values = [], [], 0
        for table, columns in to_host(pending):
            if table == "steps":
                self._count_nonfinite(columns)
            self._writer.append(table, columns)

    def _step_block(self) -> Block:
        known = [name for name in schema.STEPS.column_names if any(name in row for row in self._rows)]
        logged = sorted({name for row in self._rows for name in row} - set(known))
        return Block("steps", {name: [row.get(name) for row in self._rows] for name in [*known, *logged]})

    def _count_nonfinite(self, columns: Mapping[str, list[Any]]) -> None:
        """A loss that is NaN or infinite is stored as it is, counted in run.json and warned about once."""
        bad = [
            step
            for step, loss in zip(columns["step"], columns.get("loss") or [None] * len(columns["step"]), strict=True)
            if loss is not None and not math.isfinite(loss)
        ]
        if not bad:
            return
        if not self._nonfinite_losses:
            text = f"the loss is not finite from step {bad[0]} on; it is recorded as it is and training goes on"
            warnings.warn(text, MeasurementWarning, stacklevel=2)
            self.note(text)
        self._nonfinite_losses += len(bad)
        self.update_info(num_nonfinite_losses=self._nonfinite_losses)
