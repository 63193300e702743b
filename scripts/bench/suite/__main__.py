"""Time every way on every net, into docs/bench/suite_*.csv.

    .bench-venv/bin/python -m scripts.bench.suite                          # all; about half an hour on two quiet cores
    .bench-venv/bin/python -m scripts.bench.suite --resume 60              # what was not written in the last 60 minutes
    .bench-venv/bin/python -m scripts.bench.suite --nets mlp --ways light,hooks --rounds 3 --stages all
    .bench-venv/bin/python -m scripts.bench.suite --nets vgg16_bn --stages ics

A net and a stage are a file, written as soon as they are done. How long the rounds of a stage will take is said when
each way has taken its first steps. A part of the ways, other rounds, blocks or limits are printed and not written,
unless --to names a folder: files in docs hold whole runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ics.errors import IcsError, unknown_name
from ics.experiments.benchmarking.timing import flushed_denormals
from ics.experiments.training.machine import cpu_threads
from scripts.bench.suite.all_ways import all_ways
from scripts.bench.suite.disk import disk_rows
from scripts.bench.suite.nets import FULL_SUITE, NETS, Net
from scripts.bench.suite.rows import FOLDER, Row, rounded, where_and_when, write_rows
from scripts.bench.suite.stages import OWN, STAGES, Stage
from scripts.bench.suite.timed import summary, time_stage
from scripts.bench.suite.ways import Way

PARTS = (*STAGES, "disk")


def main() -> None:
    """Measure, print and write."""
    options = _arguments()
    os.environ["WANDB_MODE"] = "offline"
    try:
        _check(options)
        parts = [(name, part) for name in options.nets for part in options.stages if _is_due(name, part, options)]
        for number, (name, part) in enumerate(parts, 1):
            _say(f"{number} of {len(parts)}: {NETS[name].label}, stage {part}")
            with cpu_threads(options.threads or NETS[name].threads), flushed_denormals():
                _measure(name, part, options)
    except IcsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _say("stopped; what is done is written. --resume MINUTES leaves out what is younger than that")
        sys.exit(130)


def _is_due(name: str, part: str, options: argparse.Namespace) -> bool:
    """Return whether a stage is for this net, and was not written lately where that was asked."""
    if part in STAGES and not STAGES[part].suits(NETS[name]):
        return False
    path = (options.to or FOLDER) / f"suite_{name}_{part}.csv"
    if options.resume and path.exists() and time.time() - path.stat().st_mtime < 60 * options.resume:
        _say(f"{path} is younger than {options.resume:g} minutes, and stays")
        return False
    return True


def _measure(name: str, part: str, options: argparse.Namespace) -> None:
    net, ways, about = NETS[name], all_ways(), where_and_when()
    if options.block and net.block > 1:
        net = replace(net, block=options.block)
    raw: list[Row] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ics-suite-") as folder:
        if part in STAGES:
            found = list(_stage(STAGES[part], name, net, ways, Path(folder), options, raw))
        else:
            chosen = [way for way in ("idle", *OWN) if not options.ways or way in options.ways]
            found = disk_rows(net, {way: ways[way] for way in chosen}, Path(folder))
    rows = [{"net": name, "stage": part, **row, **about} for row in found]
    for row in rows:
        print(*(rounded(value) for key, value in row.items() if key not in about), sep="\t", flush=True)
    _say(f"took {_span(time.perf_counter() - began)}")
    if options.to is not None:
        write_rows(options.to / f"suite_{name}_{part}.csv", rows)
        write_rows(options.to / f"suite_{name}_{part}_raw.csv", [{"net": name, "stage": part, **row} for row in raw])


def _stage(
    stage: Stage,
    name: str,
    net: Net,
    ways: Mapping[str, Way],
    folder: Path,
    options: argparse.Namespace,
    raw: list[Row],
) -> Iterator[Row]:
    """Yield the rows of a stage, and put the seconds of every round into `raw`."""
    rounds = options.rounds or (stage.rounds if net.block > 1 else stage.slow_rounds)
    chosen = stage.chosen(ways, options.ways, net)
    if len(chosen) < 2:
        return
    reasons = {way: ways[way].left_out[name] for way in chosen if name in ways[way].left_out}
    chosen = {way: found for way, found in chosen.items() if way not in reasons}
    limit = options.seconds or stage.seconds
    timed = time_stage(
        stage,
        net,
        chosen,
        folder,
        rounds=rounds,
        seconds=limit,
        expected=lambda seconds: _say(
            f"{rounds} rounds of {len(chosen)} ways: about {_span(seconds)}; none begins after {_span(limit)}"
        ),
        progress=_Progress(),
    )
    for way, seconds in timed.seconds.items():
        raw += [{"way": way, "round": number, "seconds": value} for number, value in enumerate(seconds)]
    yield from summary(timed, stage, net, chosen)
    yield from ({"way": way, "reason": reason} for way, reason in reasons.items())


class _Progress:
    """Says after each round how many are left, and what that will take; where nobody looks on, after the last one."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def __call__(self, what: str, done: int, total: int) -> None:
        took = time.perf_counter() - self._began
        left = f", at most {_span(took / done * (total - done))} left" if done < total else ""
        if sys.stderr.isatty() or done == total:
            end = "\n" if done == total else ""
            print(f"\r{what}: round {done} of {total}{left}   ", end=end, file=sys.stderr, flush=True)


def _span(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=_names, default=list(FULL_SUITE), help=f"of {', '.join(NETS)}")
    parser.add_argument("--ways", type=_names, default=[], help="default: all of each stage")
    parser.add_argument("--stages", type=_names, default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=0, help="default: each stage's own")
    parser.add_argument("--block", type=int, default=0, help="steps timed in one go on a small net; default: 200")
    parser.add_argument(
        "--seconds", type=float, default=0, help="begin no round after so many; default: each stage's own"
    )
    parser.add_argument(
        "--resume", type=float, default=0, metavar="MINUTES", help="leave out what was written since then"
    )
    parser.add_argument("--threads", type=int, default=0, help="default: 1 for small nets, 2 for others")
    parser.add_argument("--to", type=Path, help="folder of the CSVs")
    options = parser.parse_args()
    if options.to is None and not (options.ways or options.rounds or options.block or options.seconds):
        options.to = FOLDER
    return options


def _check(options: argparse.Namespace) -> None:
    for what, names, known in (
        ("net", options.nets, NETS),
        ("stage", options.stages, PARTS),
        ("way", options.ways, all_ways()),
    ):
        for name in names:
            if name not in known:
                raise unknown_name(what, name, known)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    main()
