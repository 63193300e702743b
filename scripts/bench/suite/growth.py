"""How the cost grows: with depth, width and batch of an MLP, and with the length of the run.

    .bench-venv/bin/python -m scripts.bench.suite.growth                         # docs/bench/growth_*.csv, 6 minutes
    .bench-venv/bin/python -m scripts.bench.suite.growth --axes depth --rounds 3 --to /tmp/growth
    .bench-venv/bin/python -m scripts.bench.suite.growth --axes length --longest 1000 --to /tmp/growth

Depth, width and batch are timed in turns with the plain step, in blocks of a tenth of a second, and hold no writing:
what the recorder's thread does is waited for between the blocks, outside the clock.
The length of the run holds all of it: every step of a run until it is closed, and how long reading it takes then.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

import ics
from ics.experiments.nets.models import mlp
from scripts.bench.suite.all_ways import all_ways
from scripts.bench.suite.nets import NETS, Net, Training
from scripts.bench.suite.rows import FOLDER, Row, rounded, where_and_when, write_rows
from scripts.bench.suite.stages import Stage
from scripts.bench.suite.timed import bytes_below, summary, time_stage
from scripts.bench.suite.ways import Way

WAYS = ("plain", "light", "gradients")
OTHERS = ("hooks", "torchinstruments", "torchlens", "tensorboard")
BLOCK_SECONDS = 0.1
SIZE_SECONDS = 12.0
OTHERS_SECONDS = 15.0
LENGTHS = (10, 30, 100, 300, 1000, 3000, 10_000)


@dataclass(frozen=True, slots=True)
class Axis:
    """A net at several sizes: `make(value)` returns it."""

    values: tuple[int, ...]
    make: Callable[[int], Net]


def net_of(*, depth: int = 16, width: int = 100, batch: int = 128) -> Net:
    """Return an MLP with BatchNorm of so many linear layers, all of one width."""

    def make(**options: object) -> nn.Module:
        return mlp(hidden=(width,) * (depth - 1), **options)  # type: ignore[arg-type]

    return Net(f"MLP of {depth} layers of width {width}, batch {batch}", make, (width,), batch)


AXES: Mapping[str, Axis] = {
    "depth": Axis((8, 16, 32, 64, 128), lambda value: net_of(depth=value)),
    "width": Axis((16, 64, 256, 1024), lambda value: net_of(depth=8, width=value)),
    "batch": Axis((8, 32, 128, 512, 2048), lambda value: net_of(depth=8, batch=value)),
}


def along(name: str, rounds: int) -> Iterator[Row]:
    """Yield a row for each size and way: its ratio to the plain step and what it adds to it."""
    axis, ways = AXES[name], all_ways()
    for value in axis.values:
        net = axis.make(value)
        block = block_of(net)
        net = replace(net, block=block, slow_block=block)
        stage = Stage(WAYS, rounds, rounds)
        with tempfile.TemporaryDirectory(prefix="ics-growth-") as folder:
            timed = time_stage(
                stage, net, {way: ways[way] for way in WAYS}, Path(folder), rounds=rounds, seconds=SIZE_SECONDS
            )
        found = summary(timed, stage, net, ways)
        plain = found[0]["milliseconds"]
        for row in found:
            yield {"axis": name, "value": value, **row, "added_ms": row["milliseconds"] - plain}


def block_of(net: Net) -> int:
    """Return how many plain steps take `BLOCK_SECONDS`."""
    training = Training(net, Path())
    training.step()
    start = time.perf_counter()
    for _ in range(3):
        training.step()
    return max(1, math.ceil(3 * BLOCK_SECONDS / (time.perf_counter() - start)))


def lengths(longest: int) -> Iterator[Row]:
    """Yield a row for each way and length of run: time per step, closing, bytes, reading.

    Other tools stop at the length that would take them longer than `OTHERS_SECONDS`.
    """
    ways = all_ways()
    for name in (*WAYS, *OTHERS):
        expected = 0.0
        for steps in (steps for steps in LENGTHS if steps <= longest):
            if name in OTHERS and expected * steps > OTHERS_SECONDS:
                break
            row = one_run(ways[name], steps)
            expected = 1e-3 * row["last_quarter_ms"]
            yield {"axis": "length", "value": steps, "way": name, **row}


def one_run(way: Way, steps: int) -> Row:
    """Train a tiny net for so many steps, all recorded, and say what the run took and what reading it takes."""
    with tempfile.TemporaryDirectory(prefix="ics-growth-") as name:
        folder = Path(name) / "run"
        seconds = []
        training = Training(NETS["tiny"], folder)
        with way.start(training) as running:
            step = running.step
            step()  # what comes once: imports, buffers
            for _ in range(steps - 1):
                start = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - start)
            closing = time.perf_counter()
        closing = time.perf_counter() - closing
        quarter = max(steps // 4, 1)
        row: Row = {
            "ms_per_step": 1e3 * (fmean(seconds) + closing / steps),
            "first_quarter_ms": 1e3 * fmean(seconds[:quarter]),
            "last_quarter_ms": 1e3 * fmean(seconds[-quarter:]),
            "closing_ms": 1e3 * closing,
            "bytes_per_record": bytes_below(folder) / steps if way.interval else None,
        }
        return row | (reading(folder / "run") if way.kind == "ics" else {})


def reading(run: Path) -> Row:
    """Return the milliseconds of opening a run and of reading one column of one layer, the better of three each."""
    where = {"layer": "linear2", "site": "preactivation"}
    wanted = partial(ics.open_runs(run).table, "activations", columns=["step", "mean"], where=where)
    return {"open_ms": best_of(3, partial(ics.open_runs, run)), "column_ms": best_of(3, wanted), "rows": len(wanted())}


def best_of(times: int, call: Callable[[], object]) -> float:
    """Return the milliseconds of the fastest of some calls."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return 1e3 * min(found)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default=",".join((*AXES, "length")), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="measured steps of the longest run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--to", type=Path, default=FOLDER, help="folder of the CSVs; default: docs/bench")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    axes = options.axes.split(",")
    for axis in axes:
        if axis not in (*AXES, "length"):
            parser.error(f"an axis is one of {', '.join(AXES)}, length; got {axis!r}")
    for number, axis in enumerate(axes, 1):
        print(f"{number} of {len(axes)}: {axis}, about a minute", file=sys.stderr, flush=True)
        about, rows = where_and_when(), []
        for row in lengths(options.longest) if axis == "length" else along(axis, options.rounds):
            print(*(rounded(value) for value in row.values()), sep="\t", flush=True)
            rows.append(row | about)
        write_rows(options.to / f"growth_{axis}.csv", rows)


if __name__ == "__main__":
    main()
