"""Ways in turns within one process, and a row for each: its ratio to the plain step, its spread, what it leaves."""

from __future__ import annotations

import importlib.metadata
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ics.experiments.benchmarking.timing import Ratio, Seconds, interleaved, ratios, wait_until_quiet
from scripts.bench.suite.ics_ways import FLUSH_EVERY
from scripts.bench.suite.nets import Net, Training
from scripts.bench.suite.rows import Row
from scripts.bench.suite.stages import Stage
from scripts.bench.suite.ways import Step, Way


@dataclass
class Timed:
    """What timing a stage gave: seconds per step by way and round, reasons of ways that failed, bytes left behind."""

    seconds: Seconds
    failed: dict[str, str] = field(default_factory=dict)
    bytes_per_record: dict[str, float] = field(default_factory=dict)


def time_stage(
    stage: Stage,
    net: Net,
    ways: Mapping[str, Way],
    folder: Path,
    *,
    rounds: int,
    seconds: float = math.inf,
    expected: Callable[[float], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Timed:
    """Time the ways in turns, each on a model of its own; a tool that cannot take its first step is left out.

    Nobody writes while another way is timed: after each sample it is waited until the threads of this process stand
    still, outside the clock. What a way itself hands over to be written is waited for inside its sample, if that
    holds whole turns of it: a block of `FLUSH_EVERY` steps, which begins half-way between two flushes so that one
    page is written beside the training, as in a long run; and every sample of another tool. Else it is in no sample,
    and `disk.py` measures it.

    Args:
        stage: says how many steps make a block.
        net: what is trained.
        ways: what takes part, "plain" among them.
        folder: what is recorded goes there.
        rounds: how often each way is timed.
        seconds: begin no further round after so many, but finish two.
        expected: told how many seconds the rounds will take, from the last step of each way before them.
        progress: called after each round.
    """
    runs: dict[str, _Run] = {}
    timed = Timed({})
    with ExitStack() as open_ways, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other tools' own; what matters of them is on the page
        for name, way in ways.items():
            try:
                with ExitStack() as attempt:
                    runs[name] = _begin(way, net, stage.block_of(way, net), folder / name, attempt)
                    open_ways.push(attempt.pop_all())
            except Exception as error:
                if way.kind != "rival":
                    raise
                timed.failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                print(f"  {name} cannot run: {timed.failed[name]}", file=sys.stderr, flush=True)
            wait_until_quiet()
        if expected is not None:
            expected(min(seconds, rounds * sum(run.calls * run.step_seconds for run in runs.values())))
        samples = interleaved(
            {name: run.sample for name, run in runs.items()},
            rounds=rounds,
            warmup=0,
            seconds_limit=seconds,
            progress=progress,
            between=lambda name: _settle(ways[name]),
        )
    timed.seconds = {name: [value / runs[name].calls for value in values] for name, values in samples.items()}
    for name, run in runs.items():
        if ways[name].interval:
            records = -(-run.training.steps // ways[name].interval)
            timed.bytes_per_record[name] = bytes_below(run.training.folder) / records
    return timed


def summary(timed: Timed, stage: Stage, net: Net, ways: Mapping[str, Way]) -> list[Row]:
    """Return a row for each way that ran, and one with the reason for each that did not."""
    found = ratios(timed.seconds, base="plain")
    rows = [_row(ways[name], name, ratio, timed, stage.block_of(ways[name], net)) for name, ratio in found.items()]
    return rows + [{"way": name, "reason": reason} for name, reason in timed.failed.items()]


def bytes_below(folder: Path) -> int:
    """Return the size of all files in a folder and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def version(package: str) -> str:
    """Return the version of an installed distribution; "" for none."""
    try:
        return importlib.metadata.version(package) if package else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _row(way: Way, name: str, ratio: Ratio, timed: Timed, block: int) -> Row:
    ordered = sorted(timed.seconds[name])
    return {
        "way": name,
        "ratio": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
        "lower_quartile": ratio.lower_quartile,
        "upper_quartile": ratio.upper_quartile,
        "rounds": ratio.rounds,
        "steps_per_round": block,
        "milliseconds": 1e3 * ordered[len(ordered) // 2],
        "bytes_per_record": timed.bytes_per_record.get(name),
        "version": version(way.package),
        "reason": "",
    }


@dataclass(frozen=True, slots=True)
class _Run:
    """A training under way: its sample takes `calls` steps, of which the last before timing took `step_seconds`."""

    training: Training
    calls: int
    sample: Step
    step_seconds: float


def _begin(way: Way, net: Net, calls: int, folder: Path, stack: ExitStack) -> _Run:
    """Attach a way, and take the steps that are not timed: what comes once, and up to half-way between two flushes."""
    training = Training(net, folder)
    running = stack.enter_context(way.start(training))
    turns = calls % FLUSH_EVERY == 0
    if turns:
        before = FLUSH_EVERY // 2
    elif net.block > 1:
        before = 1 + calls
    else:
        before = 1 if way.kind == "rival" else 2  # `ics` learns the net in the first
    for _ in range(before):
        start = time.perf_counter()
        running.step()
    took = time.perf_counter() - start
    running.settle()
    counted = turns or way.kind == "rival"

    def sample() -> None:
        for _ in range(calls):
            running.step()
        if counted:
            running.settle()

    return _Run(training, calls, sample, took)


def _settle(way: Way) -> None:
    if way.kind != "plain":
        time.sleep(way.pause)
        wait_until_quiet()
