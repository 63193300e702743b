"""Merges parts so that they stay few: eight equal ones during the run, the small ones that are left at its end.

So a run of n flushes has about 8 log_8(n) parts per table at any time, however it ends, and each row is rewritten at
most log_8(n) times. A merge during the run rewrites at most 128 MiB of a table, the merge at its end 16 MiB: both take
as long after a week as after a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ics.schema import Table
from ics.store.layout import Part, all_parts, live_parts
from ics.store.merging import merge_parts

_FAN_IN = 8  # with fewer, rows would be rewritten more often; with more, readers would open more parts
_MAX_BYTES = 128 * 2**20
_MAX_BYTES_AT_END = 16 * 2**20  # the user waits for this merge; the others run beside the training


def merge_due(folder: Path, table: Table) -> None:
    """Merge the newest parts of a table as long as the last eight hold equally many flushes.

    The parts are listed from the folder: after an interrupted merge, a list kept in memory would name parts that no
    longer count.

    Raises:
        OSError, pyarrow.ArrowException: a part cannot be read or written; every row is still readable.
    """
    while True:  # the merged part may be the eighth of its own size
        last = live_parts(folder)[-_FAN_IN:]
        alike = len(last) == _FAN_IN and len({part.num_flushes for part in last}) == 1
        if not alike or sum(map(_num_bytes, last)) > _MAX_BYTES:
            return
        merge_parts(last, table)
        _remove(last)


def compact(folder: Path, table: Table) -> None:
    """Merge the newest parts of a table that together stay below 16 MiB; small tables end as one part.

    The process may be killed at any point; see `layout`.

    Raises:
        OSError, pyarrow.ArrowException: a part cannot be read or written; every row is still readable.
    """
    parts = live_parts(folder)
    last = _newest(parts)  # neighbours: a part covers one range of flushes, so only neighbours can become one
    if len(last) > 1:
        merge_parts(last, table)
        parts = live_parts(folder)
    # All that do not count, so also those that an interrupted merge left behind.
    _remove([part for part in all_parts(folder) if part not in parts])


def _newest(parts: Sequence[Part]) -> list[Part]:
    size, number = 0, len(parts)
    while number and size + _num_bytes(parts[number - 1]) <= _MAX_BYTES_AT_END:
        number -= 1
        size += _num_bytes(parts[number])
    return list(parts[number:])


def _num_bytes(part: Part) -> int:
    return part.path.stat().st_size


def _remove(parts: Sequence[Part]) -> None:
    for part in parts:
        part.path.unlink(missing_ok=True)
