"""What one more recorded step leaves on disk, and what writing it takes: the slope between a short and a longer run.

A run folder has a constant part (run.json, the schema at the end of every Parquet file) that a long training does not
notice and a benchmark of ten steps would. The same holds for the time of closing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import ics
from ics.experiments.benchmarking.timing import wait_until_quiet
from scripts.bench.suite.ics_ways import NEVER
from scripts.bench.suite.nets import Net, Training
from scripts.bench.suite.rows import Row
from scripts.bench.suite.timed import bytes_below
from scripts.bench.suite.ways import Way

SHORT, LONG = 2, 8
TIMES = 10  # so many times as many steps of a net whose steps are short
IDLE_SHORT, IDLE_LONG = 200, 2000


def disk_rows(net: Net, ways: Mapping[str, Way], folder: Path) -> list[Row]:
    """Return bytes and milliseconds of writing per recorded step, for ways that record at every step, and idle.

    `writing_ms` is the CPU time that closing takes beyond that of the short run, per step: an upper bound, as in a long
    run most of the writing happens while training goes on.
    """
    rows = []
    steps = [number * (TIMES if net.block > 1 else 1) for number in (SHORT, LONG)]
    for name, way in ways.items():
        if name == "idle":
            rows.append(idle_row(net, folder))
        if way.interval != 1:
            continue
        short, long = (_run(net, way, folder / f"{name}-{number}", number) for number in steps)
        rows.append(
            {
                "way": name,
                "bytes_per_record": slope(short[0], long[0], steps[1] - steps[0]),
                "writing_ms": 1e3 * slope(short[1], long[1], steps[1] - steps[0]),
                "steps": steps[1],
            }
        )
    return rows


def idle_row(net: Net, folder: Path) -> Row:
    """Return what a recorder's step takes at which nothing is due and nothing is trained, and writing its row.

    `step_us` is its step around nothing, the loss logged: less than in a training, where the caches hold other things.
    """
    short, long = (_idle_run(net, folder / f"idle-{steps}", steps) for steps in (IDLE_SHORT, IDLE_LONG))
    bytes_, closing, steps = (
        slope(first, last, IDLE_LONG - IDLE_SHORT) for first, last in zip(short, long, strict=True)
    )
    return {
        "way": "idle",
        "bytes_per_record": bytes_,
        "writing_ms": 1e3 * closing,
        "steps": IDLE_LONG,
        "step_us": 1e6 * steps,
    }


def slope(short: float, long: float, steps: int = LONG - SHORT) -> float:
    """Return what one step more adds; not less than nothing.

    Example:
        >>> slope(1000, 1000 + (LONG - SHORT) * 50)
        50.0
    """
    return max((long - short) / steps, 0.0)


def _idle_run(net: Net, folder: Path, steps: int) -> tuple[int, float, float]:
    """Return the bytes that idle steps left, the seconds of closing, and those of the steps."""
    training = Training(net, folder)
    batch = training.next_batch()
    loss = training.update(batch)
    recorder = ics.Recorder(
        training.model,
        to=folder / "run",
        optimizer=training.optimizer,
        instruments={"activations": NEVER},
        flush_every=steps + 1,  # so that all is written on closing
    )
    start = time.perf_counter()
    for _ in range(steps):
        with recorder.step(batch) as recording:
            recording.log(loss=loss)
    end, closing = time.perf_counter(), time.process_time()
    recorder.close()
    return bytes_below(folder), time.process_time() - closing, end - start


def _run(net: Net, way: Way, folder: Path, steps: int) -> tuple[int, float]:
    """Record so many steps; return the bytes they left and the CPU seconds that closing took."""
    training = Training(net, folder)
    opened = way.start(training)
    running = opened.__enter__()
    for _ in range(steps):
        running.step()
    wait_until_quiet()
    start = time.process_time()
    opened.__exit__(None, None, None)
    return bytes_below(folder), time.process_time() - start
