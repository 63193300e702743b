"""What recording costs on this machine: the same training step plain, with an idle recorder, and measured.

The unit is the plain step: forward, backward, SGD with momentum, on a batch of random numbers. All ways train the same
model on the same batch and alternate (`ics.experiments.benchmarking.timing`). Writing is timed separately and added to
the steps that caused it: it happens once per flush, which a few rounds would meet only by chance.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ics.errors import IcsError, UsageError
from ics.experiments.benchmarking.peak_memory import Memory, peak_memory
from ics.experiments.benchmarking.timing import Clock, Seconds, flushed_denormals, interleaved, ratios, wait_until_quiet
from ics.experiments.benchmarking.ways import WAYS, Setting, TimedTraining
from ics.experiments.data.examples import Progress
from ics.experiments.training.machine import find_device

INTERVALS = (1, 10, 100)
WITH_MEMORY = ("plain", "full", "gradient_shift")

_SAMPLE_SECONDS = 0.05
_MOST_STEPS = 100
_WRITTEN_SECONDS = 1.0
_MOST_WRITTEN = 200
_IDLE_WRITTEN = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One line of the table: a way at an interval.

    Attributes:
        model: label of the model; `batch_size` samples per step.
        way: one of `WAYS`; `interval`: measured every so many steps (0 for plain and idle, which measure nothing).
        ratio: seconds of a step over those of a plain one, median over rounds, and `low`, `high`, the 95 % interval of
            that median; `lower_quartile` and `upper_quartile` of the rounds.
        rounds: number of rounds.
        derived: whether it was computed from intervals 1 and idle instead of being timed.
        plain_seconds: median of a plain step.
        writing_seconds: what encoding and writing add per measured step; part of the ratio.
        bytes_per_step: on disk, per measured step (of an idle recorder: per step).
        added_bytes: peak memory that two steps add to what the process held before; None where it was not measured.
        added_ratio: the same over the plain step's.
    """

    model: str
    batch_size: int
    way: str
    interval: int
    ratio: float
    low: float
    high: float
    lower_quartile: float
    upper_quartile: float
    rounds: int
    derived: bool
    plain_seconds: float
    writing_seconds: float | None
    bytes_per_step: float | None
    added_bytes: int | None
    added_ratio: float | None


def overhead(
    setting: Setting,
    *,
    rounds: int = 30,
    seconds_limit: float = 30.0,
    measure_all: bool = False,
    memory: bool = True,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
) -> list[Cost]:
    """Return what every way costs at every interval.

    Intervals 10 and 100 follow from every step's cost m and an idle step's i, `i + (m - i) / n`, unless `measure_all`.

    Args:
        setting: what is trained.
        rounds: how often each way is timed, at most; a sample is of one step, or of so many that it takes 50 ms.
        seconds_limit: begin no further round after so many seconds.
        measure_all: time intervals 10 and 100 too, in rounds that are about 200 steps longer.
        memory: whether to measure peak memory, each way of `WITH_MEMORY` in a process of its own.
        progress: called as `progress(label, done, total)`.
        clock: returns seconds; `time.process_time` on one CPU thread is disturbed least by other programs, and counts
            what other threads of this process do, such as writing, in full.

    Raises:
        UsageError: the model or the device cannot be had, or the model cannot be trained on such a batch.
    """
    report = _Report(setting.label, progress, rounds, memory)
    training = TimedTraining(setting, clock=clock)
    timed = INTERVALS if measure_all else INTERVALS[:1]
    # Momentum without a gradient (a dead unit) shrinks by 0.9 a step, and within a thousand steps becomes subnormal.
    with flushed_denormals(), tempfile.TemporaryDirectory() as folder:
        seconds = _time(training, Path(folder), timed, rounds=rounds, limit=seconds_limit, report=report)
        written = {
            way: _written(training, way, Path(folder), min(seconds.get(f"{way}/1", seconds["idle/0"])))
            for way in report.each(WAYS[1:])
        }
    peaks = {way: peak_of(setting, way) for way in report.each(WITH_MEMORY)} if memory else {}
    return list(_lines(setting, seconds, written, peaks))


def peak_of(setting: Setting, way: str) -> Memory:
    """Return the peak memory of two steps in a process of its own: of a recording way, two measured ones."""
    return peak_memory(partial(_prepare_steps, setting, way), device=find_device(setting.device))


def _prepare_steps(setting: Setting, way: str) -> Callable[[], None]:
    # Without the step that checks the model: what it takes would count as held, and a plain step as adding nothing.
    training, folder = TimedTraining(setting, check=False), Path(tempfile.mkdtemp())

    def steps() -> None:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            recorder = None if way == "plain" else stack.enter_context(training.recorder(way, 1, folder))
            for _ in range(2):
                training.plain() if recorder is None else training.recorded(recorder)

    return steps


def _time(
    training: TimedTraining, folder: Path, intervals: Iterable[int], *, rounds: int, limit: float, report: _Report
) -> Seconds:
    """Return seconds per step by `way/interval`; plain and idle, which measure nothing, have interval 0."""
    ways: dict[str, Callable[[], Any]] = {}
    num_steps: dict[str, int] = {}
    with ExitStack() as stack:
        for way in WAYS:
            for interval in intervals if way in WAYS[2:] else (0,):
                name, step = f"{way}/{interval}", training.plain
                if way != "plain":
                    recorder = stack.enter_context(training.recorder(way, interval or 1, folder / name))
                    step = partial(training.recorded, recorder)
                num_steps[name] = _steps_of_a_sample(step, way, training) * max(interval, 1)
                ways[name] = partial(_repeat, step, num_steps[name])
        seconds = interleaved(
            ways,
            rounds=rounds,
            warmup=0,  # each way has taken two steps by now
            seconds_limit=limit,
            device=training.device,
            progress=report.round,
            clock=training.clock,
            between=lambda name: wait_until_quiet(),  # what a recorder writes beside the training is timed apart
        )
    return {name: [value / num_steps[name] for value in values] for name, values in seconds.items()}


def _steps_of_a_sample(step: Callable[[], Any], way: str, training: TimedTraining) -> int:
    """Return how many steps make a sample that is long compared with the resolution of clock and scheduler.

    The first step does the work that is done once. If it fails, the user gets a sentence and no traceback.
    """
    try:
        step()
    except IcsError:
        raise
    except Exception as error:
        raise UsageError(f"{way} cannot be measured on {training.label}: {type(error).__name__}: {error}") from error
    seconds = interleaved({way: step}, rounds=1, warmup=0, device=training.device, clock=training.clock)[way]
    return int(min(max(_SAMPLE_SECONDS / max(min(seconds), 1e-6), 1), _MOST_STEPS))


def _written(training: TimedTraining, way: str, folder: Path, step_seconds: float) -> tuple[float, float]:
    """Return the seconds and bytes that writing takes per measured step: those of many steps, less those of one."""
    # The difference leaves out the fixed cost of closing a run. Idle steps write so little that it takes many of them.
    num = _IDLE_WRITTEN if way == "idle" else int(min(max(_WRITTEN_SECONDS / step_seconds, 2), _MOST_WRITTEN))
    once, many = (_write(training, way, steps, folder / f"{way}-{steps}") for steps in (1, num))
    seconds, size = (max(last - first, 0.0) / (num - 1) for first, last in zip(once, many, strict=True))
    return seconds, size


def _write(training: TimedTraining, way: str, num: int, to: Path) -> tuple[float, float]:
    """Record `num` steps; return the seconds of closing, during which everything is written, and the size on disk."""
    recorder = training.recorder(way, 1, to, flush_every=num + 1)  # so that nothing is written before closing
    for _ in range(num):
        if way == "idle":
            with recorder.step() as step:
                step.log(loss=1.0)
        else:
            training.batch[0].normal_()  # a batch that repeats would compress better than those of a training
            training.recorded(recorder)
    start = training.clock()
    recorder.close()
    return training.clock() - start, sum(part.stat().st_size for part in to.rglob("*.parquet"))


def _lines(
    setting: Setting,
    seconds: Seconds,
    written: Mapping[str, tuple[float, float]],
    peaks: Mapping[str, Memory],
) -> Iterator[Cost]:
    idle, plain = seconds["idle/0"], sorted(seconds["plain/0"])
    complete: Seconds = {"plain/0": seconds["plain/0"], "idle/0": [value + written["idle"][0] for value in idle]}
    for way in WAYS[2:]:
        every_step = [value + written[way][0] for value in seconds[f"{way}/1"]]
        for n in INTERVALS:
            timed = seconds.get(f"{way}/{n}")
            complete[f"{way}/{n}"] = (
                [i + (m - i) / n for m, i in zip(every_step, idle, strict=True)]
                if timed is None
                else [value + written[way][0] / n for value in timed]
            )
    for name, ratio in ratios(complete, base="plain/0").items():
        way, peak = name.partition("/")[0], peaks.get(name.partition("/")[0])
        seconds_written, size = written.get(way, (None, None))
        yield Cost(
            model=setting.label,
            batch_size=setting.batch_size,
            way=way,
            interval=_interval(name),
            ratio=ratio.median,
            low=ratio.low,
            high=ratio.high,
            lower_quartile=ratio.lower_quartile,
            upper_quartile=ratio.upper_quartile,
            rounds=ratio.rounds,
            derived=name not in seconds,
            plain_seconds=plain[len(plain) // 2],
            writing_seconds=seconds_written,
            bytes_per_step=size,
            added_bytes=None if peak is None else peak.added,
            added_ratio=None if peak is None else peak.added / max(peaks["plain"].added, 1),
        )


class _Report:
    """One progress bar over rounds, writing and memory."""

    def __init__(self, label: str, progress: Progress | None, rounds: int, memory: bool) -> None:
        self._label, self._progress, self._rounds = label, progress, rounds
        self._total = rounds + len(WAYS) - 1 + (len(WITH_MEMORY) if memory else 0)
        self._done = 0

    def round(self, what: str, done: int, total: int) -> None:
        """Move the bar on after a round."""
        self._show(done)

    def each(self, ways: tuple[str, ...]) -> Iterator[str]:
        """Yield the ways, and move the bar on after each."""
        self._done = max(self._done, self._rounds)
        for way in ways:
            yield way
            self._show(self._done + 1)

    def _show(self, done: int) -> None:
        self._done = done
        if self._progress is not None:
            self._progress(self._label, done, self._total)


def _repeat(run: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        run()


def _interval(name: str) -> int:
    return int(name.partition("/")[2] or 0)
