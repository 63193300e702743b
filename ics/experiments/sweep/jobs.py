"""The parts of a sweep: a `Job`, its `JobResult`, and one attempt at a job."""

from __future__ import annotations

import os
import time
import traceback as tracebacks
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ics.errors import IcsError
from ics.experiments.data.examples import Progress

State = Literal["done", "reused", "failed"]


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work that leaves its result in a folder, and can tell whether it is there.

    Attributes:
        name: its name in progress bars and results; no two jobs of a sweep share a folder.
        to: the folder of its result.
        run: does the work; picklable, so a function of a module or a `functools.partial` of one. It may be called again
            after its worker died, so it must replace what a broken attempt left.
        is_done: whether the result is complete; picklable, and quick, because it is called for every job first.
        threads: CPU threads it was configured for; None takes an equal share of this machine's cores.
        gpus: GPUs that it occupies.
    """

    name: str
    to: Path
    run: Callable[[], object]
    is_done: Callable[[], bool]
    threads: int | None = None
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended.

    Attributes:
        name: of the job.
        to: the folder of the result.
        state: `"done"`, `"reused"` (it was there before) or `"failed"`.
        sentence: why it failed; None otherwise.
        attempts: how often it was begun: more than once where a worker died; 0 where the result was there.
        seconds: wall time of the last attempt that ended by itself.
        traceback: of the error that is no user's mistake; None otherwise.
        notes: what measurements had to say (`MeasurementWarning`), where a worker process ran the job.
    """

    name: str
    to: Path
    state: State
    sentence: str | None = None
    attempts: int = 1
    seconds: float = 0.0
    traceback: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the result is there."""
        return self.state != "failed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of one attempt that ended by itself; sent from worker to parent."""

    seconds: float
    sentence: str | None = None
    traceback: str | None = None
    notes: tuple[str, ...] = ()


_own_progress: ContextVar[Progress | None] = ContextVar("own_progress", default=None)


def own_progress() -> Progress | None:
    """Return what the running job may call as `(what, done, total)` to report progress; None if nobody listens."""
    return _own_progress.get()


@contextmanager
def listening(progress: Progress | None) -> Iterator[None]:
    """Let jobs that run inside the block report their own progress to `progress`."""
    token = _own_progress.set(progress)
    try:
        yield
    finally:
        _own_progress.reset(token)


def named(progress: Progress | None, name: str) -> Progress | None:
    """Return `progress` for one of several jobs: training is reported under its name, other work as `NAME: WHAT`."""
    if progress is None:
        return None
    return lambda what, done, total: progress(name if what == "training" else f"{name}: {what}", done, total)


def attempt(run: Callable[[], object]) -> Attempt:
    """Run a job once. An error becomes its sentence, but an interrupt is raised."""
    begin = time.perf_counter()
    try:
        run()
    except (Exception, SystemExit) as error:  # a model's code may call sys.exit, which would look like a killed worker
        is_mistake = isinstance(error, IcsError | OSError)
        trace = None if is_mistake else "".join(tracebacks.format_exception(error))
        return Attempt(time.perf_counter() - begin, sentence_of(error), trace)
    return Attempt(time.perf_counter() - begin)


def sentence_of(error: BaseException) -> str:
    """Return an error as one line, with its type where the message was not written for users."""
    text = " ".join(str(error).split())
    if isinstance(error, IcsError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def result_of(job: Job, tried: Attempt, *, attempts: int) -> JobResult:
    """Return the result of a job whose last attempt ended by itself, after a look at what it left."""
    sentence = tried.sentence
    if sentence is None and not job.is_done():
        sentence = (
            f"it ran to its end, but {job.to} holds no complete result here; workers on other machines must write to a "
            "file system that this machine sees under the same path"
        )
    return JobResult(
        name=job.name,
        to=job.to,
        state="done" if sentence is None else "failed",
        sentence=sentence,
        attempts=attempts,
        seconds=tried.seconds,
        traceback=tried.traceback,
        notes=tried.notes,
    )


def dead(job: Job, reason: str, *, attempts: int) -> JobResult:
    """Return the result of a job whose worker died each time it was tried."""
    times = "once" if attempts == 1 else f"{attempts} times"
    sentence = f"its worker died {times}, last {reason}; memory that runs out is the usual cause: take fewer workers"
    return JobResult(job.name, job.to, "failed", sentence, attempts)


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
