"""Ways in turns within one process, and a row for each: its ratio to the plain step, its spread, what it leaves."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ics.experiments.timing import Ratio, Seconds, interleaved, ratios
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
    progress: Callable[[str, int, int], None] | None = None,
) -> Timed:
    """Time the ways in turns, each on a model of its own; a tool that cannot take its first step is left out.

    Args:
        stage: says how many steps make a block.
        net: what is trained.
        ways: what takes part, "plain" among them.
        folder: what is recorded goes there.
        rounds: how often each way is timed.
        progress: called after each round.
    """
    steps: dict[str, Step] = {}
    trainings: dict[str, Training] = {}
    timed = Timed({})
    with ExitStack() as open_ways, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other tools' own; what matters of them is on the page
        for name, way in ways.items():
            training = Training(net, folder / name)
            try:
                with ExitStack() as attempt:
                    step = attempt.enter_context(way.start(training))
                    for _ in range(1 if way.kind == "rival" else 2):  # `ics` learns the net in the first
                        step()
                    open_ways.push(attempt.pop_all())
            except Exception as error:
                if way.kind != "rival":
                    raise
                timed.failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                print(f"  {name} cannot run: {timed.failed[name]}", file=sys.stderr, flush=True)
            else:
                steps[name], trainings[name] = step, training
        calls = {name: stage.block_of(ways[name], net) for name in steps}
        blocks = {name: _block(step, calls[name]) for name, step in steps.items()}
        warmup = 1 if net.block > 1 else 0  # a step of a big net warms up what it can
        seconds = interleaved(blocks, rounds=rounds, warmup=warmup, progress=progress)
    timed.seconds = {name: [value / calls[name] for value in values] for name, values in seconds.items()}
    for name, training in trainings.items():
        if ways[name].interval:
            records = -(-training.steps // ways[name].interval)
            timed.bytes_per_record[name] = bytes_below(training.folder) / records
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


def _block(step: Step, calls: int) -> Step:
    def block() -> None:
        for _ in range(calls):
            step()

    return block
