"""Rows, logged steps and notes that are recorded but not yet written, and the rule that says when to write them."""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ics import schema
from ics.errors import MeasurementWarning, UsageError
from ics.recording.writing.background import Background
from ics.recording.writing.disk_writer import DiskWriter
from ics.recording.writing.transfer import Sent, send, tensor_sizes
from ics.records import Block
from ics.stats.parallel import compute_alone
from ics.store import Writer
from ics.store.run_file import to_json

_SECONDS = 30.0
_VALUES = 4_000_000
_QUEUE_BYTES = 256 * 2**20
_BYTES_PER_VALUE = 8
_BYTES_PER_TENSOR = 512  # what torch needs to hold one, however small


@dataclass(slots=True)
class _Page:
    """What is recorded between two flushes; after the flush, the same rows on their way to the host."""

    blocks: list[Block] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    num_values: int = 0
    num_bytes: int = 0
    sent: Sent | None = None


class RecordBuffer:
    """Collects blocks and step rows, and has them written beside the training.

    A flush starts one copy per device and returns; a thread of the buffer encodes and writes. The buffer flushes
    after `flush_every` steps, 30 seconds, or 4 million pending values, whichever comes first. If more than 256 MiB
    wait to be written, a flush waits until enough has been written.

    A disk that takes nothing is warned about once, and rows are kept and tried again. Other errors of the thread are
    raised by the next call that flushes if it is `strict`; if not, what it was that failed is warned about once, noted,
    and left out from then on. Who exits, or is interrupted in the midst of a call, loses nothing that was
    added before. A forked process has no part in the buffer: what it closes stays as it is.
    """

    def __init__(self, writer: Writer, *, flush_every: int, strict: bool = True) -> None:
        self._writer = writer
        self._flush_every = flush_every
        self._strict = strict
        # The last page is the open one. Appending another turns it, in one step that no interrupt can cut in two.
        self._pages: deque[_Page] = deque([_Page()])
        self._notes: list[str] = []
        self._info: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._disk = DiskWriter(writer, note=self._keep_note, keep=self._keep, strict=strict)
        self._background = Background(self._work, name="ics-writing", prepare=compute_alone)
        self._flushed = time.perf_counter()  # perf_counter does not jump when the system's clock is set
        self._closed = False

    def add(self, block: Block, *, step: int) -> None:
        """Keep the rows of a block until the next flush; nobody may write into its tensors from now on."""
        if block.table in self._disk.off:
            return
        sizes = tensor_sizes(block)
        page = self._pages[-1]
        page.num_values += sum(sizes)
        page.num_bytes += _BYTES_PER_VALUE * sum(sizes) + _BYTES_PER_TENSOR * len(sizes)
        page.blocks.append(replace(block, columns={"step": [step] * block.num_rows, **block.columns}))

    def add_step(self, row: Mapping[str, Any]) -> None:
        """Keep the row of one step, and flush if it is time."""
        page = self._pages[-1]
        page.rows.append(dict(row))
        waited = time.perf_counter() - self._flushed
        if len(page.rows) >= self._flush_every or waited > _SECONDS or page.num_values > _VALUES:
            self.flush()

    def note(self, text: str) -> None:
        """Add a sentence to the notes in run.json, which a reader of the run should see."""
        self._check_process()
        self._keep_note(text)
        self._background.wake()

    def update_info(self, **fields: Any) -> None:
        """Have the thread write fields of run.json."""
        self._check_process()
        self._keep(**fields)
        self._background.wake()

    def flush(self) -> None:
        """Hand everything pending to the thread and return; raises the errors of earlier flushes."""
        self._flushed = time.perf_counter()
        if self._closed:
            return
        self._check_process()
        self._turn_page()
        self._background.wake()
        self._report()

    def drain(self) -> None:
        """Hand everything pending to the thread and wait until it is written, or until the disk refused it."""
        if self._closed:
            return
        self._check_process()
        self._turn_page()
        self._background.wait()
        self._report()

    @property
    def is_foreign(self) -> bool:
        """Whether this is a fork of the process that opened the run."""
        return self._background.foreign

    def close(self, state: str) -> None:
        """Write what is left, compact the run and mark its end; safe to call twice. Raises the errors of the thread."""
        if self._closed or self._background.foreign:
            return
        try:
            self._turn_page()
        except Exception as error:  # what cannot be copied is lost, what can is written
            self._disk.failed(None, error)
        self._background.stop()
        self._writer.close(state=state)
        self._closed = True  # not earlier: what an interrupt cut short can be called again
        self._report()

    def _turn_page(self) -> None:
        """Start the copy of what is pending, and hand it to the thread once the queue can take it."""
        page = self._pages[-1]
        if page.blocks or page.rows:
            page.sent = self._send([*page.blocks, *([_step_block(page.rows)] if page.rows else [])])
            if self._waiting_bytes() + page.num_bytes > _QUEUE_BYTES:
                # A page larger than the whole queue never meets the condition; it waits until the queue is empty.
                self._background.wait(lambda: self._waiting_bytes() + page.num_bytes <= _QUEUE_BYTES)
            self._pages.append(_Page())

    def _send(self, blocks: list[Block]) -> Sent:
        """Start the copy of blocks; where that fails, of each table by itself, so that the others are copied."""
        try:
            return send(blocks)
        except Exception:
            if self._strict:
                raise
            sent = Sent()
        for table in dict.fromkeys(block.table for block in blocks):
            try:
                sent.tables.extend(send([block for block in blocks if block.table == table]).tables)
            except Exception as error:
                self._disk.failed(table, error)
        return sent

    def _waiting_bytes(self) -> int:
        # Of a copy: the thread removes pages meanwhile, and a deque that changes cannot be iterated over.
        return sum(page.num_bytes for page in list(self._pages)[:-1])

    def _work(self) -> None:
        """Write the pages that were turned, oldest first, and what is new for run.json. Runs in the thread."""
        while len(self._pages) > 1:
            page = self._pages[0]
            # Only now, not when it is sent: a page whose sending was interrupted is sent again, from these.
            page.blocks, page.rows = [], []
            if page.sent is not None:
                self._disk.take(page.sent)
            self._pages.popleft()
            self._background.progressed()
            self._disk.write()
        with self._lock:  # held for the exchange only: a note from the training must not wait for the disk
            info, self._info = self._info, {}
        if info and not self._disk.write_info(info):
            with self._lock:
                self._info = info | self._info  # in this order, so that a field set meanwhile is not overwritten

    def _keep_note(self, text: str) -> None:
        with self._lock:
            self._notes.append(text)
            self._info["notes"] = list(self._notes)

    def _keep(self, **fields: Any) -> None:
        checked = to_json(fields)  # here, where the caller sees its mistake; and a copy, which it cannot change later
        with self._lock:
            self._info |= checked

    def _report(self) -> None:
        """Warn about or raise what went wrong in the thread, here where the user sees it."""
        while self._disk.warnings:
            warnings.warn(self._disk.warnings.popleft(), MeasurementWarning, stacklevel=4)
        error, self._disk.error = self._disk.error, None
        if error is not None:
            raise error

    def _check_process(self) -> None:
        if self._background.foreign:
            raise UsageError(
                f"expected the process that opened the run {self._writer.path}, got a fork of it; "
                "make a recorder of its own in the process that trains"
            )


def _step_block(rows: list[dict[str, Any]]) -> Block:
    known = [name for name in schema.STEPS.column_names if any(name in row for row in rows)]
    logged = sorted({name for row in rows for name in row} - set(known))
    return Block("steps", {name: [row.get(name) for row in rows] for name in [*known, *logged]})
