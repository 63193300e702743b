"""What one more recorded step leaves on disk, and what writing it takes: the slope between a short and a longer run.

A run folder has a constant part (run.json, the schema at the end of every Parquet file) that a long training does not
notice and a benchmark of ten steps would. The same holds for the time of closing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from scripts.bench.suite.nets import Net, Training
from scripts.bench.suite.rows import Row
from scripts.bench.suite.timed import bytes_below
from scripts.bench.suite.ways import Way

SHORT, LONG = 4, 12


def disk_rows(net: Net, ways: Mapping[str, Way], folder: Path) -> list[Row]:
    """Return bytes and milliseconds of writing per recorded step, for ways that record at every step.

    `writing_ms` is the time that closing takes beyond that of the short run, per step: an upper bound, as in a long
    run most of the writing happens while training goes on.
    """
    rows = []
    for name, way in ways.items():
        if way.interval != 1:
            continue
        short, long = (_run(net, way, folder / f"{name}-{steps}", steps) for steps in (SHORT, LONG))
        rows.append(
            {
                "way": name,
                "bytes_per_record": slope(short[0], long[0]),
                "writing_ms": 1e3 * slope(short[1], long[1]),
                "steps": LONG,
            }
        )
    return rows


def slope(short: float, long: float) -> float:
    """Return what one step more adds; not less than nothing.

    Example:
        >>> slope(1000, 1000 + (LONG - SHORT) * 50)
        50.0
    """
    return max((long - short) / (LONG - SHORT), 0.0)


def _run(net: Net, way: Way, folder: Path, steps: int) -> tuple[int, float]:
    """Record so many steps; return the bytes they left and the seconds that closing took."""
    training = Training(net, folder)
    opened = way.start(training)
    step = opened.__enter__()
    for _ in range(steps):
        step()
    start = time.perf_counter()
    opened.__exit__(None, None, None)
    return bytes_below(folder), time.perf_counter() - start
