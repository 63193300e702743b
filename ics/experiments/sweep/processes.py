"""Jobs in processes on this machine. When a worker dies, only its own attempt is lost.

`concurrent.futures` gives up all jobs when one worker dies, and does not say whose job it was. Here each worker has a
pipe of its own. Workers are started fresh (spawn), because a copy of a process that has used threads or CUDA may hang.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from types import FrameType
from typing import Any

from ics.errors import MeasurementWarning, UsageError
from ics.experiments.data.examples import Progress
from ics.experiments.sweep.jobs import (
    Attempt,
    Job,
    JobResult,
    attempt,
    available_cores,
    dead,
    listening,
    named,
    result_of,
)

_PATIENCE = 10.0
"""Seconds that an interrupted worker has to close its run."""
_PAUSE = 0.25
"""Seconds between two messages about a job's own progress."""
_SPAWN = multiprocessing.get_context("spawn")


@dataclass
class _Task:
    place: int
    job: Job
    work: bytes
    attempts: int = 0


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    ready: bool = False
    task: _Task | None = None


def run_in_processes(
    jobs: Sequence[Job], *, workers: int, retries: int, own_progress: Progress | None = None
) -> Generator[tuple[int, JobResult], None, None]:
    """Yield (place in `jobs`, result) as jobs end; closing the generator stops the workers.

    Raises:
        UsageError: a job cannot be sent to a process, or none of the processes starts.
    """
    pending = deque(_Task(place, job, _packed(job)) for place, job in enumerate(jobs))
    pool: list[_Worker] = []
    # Workers that each took every core would spend their time waiting for one another.
    threads = max(1, available_cores() // workers)
    failed_starts = 0
    try:
        while pending or any(worker.task for worker in pool):
            pool += [_start(threads) for _ in range(min(workers, len(pending) + _num_busy(pool)) - len(pool))]
            for worker in pool:
                if worker.ready and worker.task is None and pending:
                    _hand_out(worker, pending)
            for worker, message in _messages(pool):
                match message:
                    case "ready", _:
                        worker.ready = True
                        failed_starts = 0
                    case "progress", (what, done, total):
                        if (tell := named(own_progress, _task_of(worker).job.name)) is not None:
                            tell(what, done, total)
                    case "ended", Attempt() as tried:
                        task, worker.task = _task_of(worker), None
                        yield task.place, result_of(task.job, tried, attempts=task.attempts)
                    case "died", _:
                        pool.remove(worker)
                        reason = _reason(worker)
                        if worker.task is None:
                            # A script without `if __name__ == "__main__"` would start workers that die for ever.
                            failed_starts += not worker.ready
                            _check_starts(failed_starts, retries, reason)
                        elif worker.task.attempts <= retries:
                            # To the end of the queue, where fewer jobs run beside one that needs much memory.
                            pending.append(worker.task)
                        else:
                            task = worker.task
                            yield task.place, dead(task.job, reason, attempts=task.attempts)
    finally:
        _stop(pool)


def _num_busy(pool: list[_Worker]) -> int:
    return sum(worker.task is not None for worker in pool)


def _task_of(worker: _Worker) -> _Task:
    assert worker.task is not None
    return worker.task


def _packed(job: Job) -> bytes:
    try:
        return bytes(ForkingPickler.dumps(job.run))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UsageError(
            f"a job runs in another process, so its `run` is a function of a module or a functools.partial of one; "
            f"that of {job.name} cannot be sent there ({error}); or type workers=1"
        ) from error


def _start(threads: int) -> _Worker:
    here, there = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(there, threads), daemon=True, name="ics-sweep")
    with _interrupts_held():
        process.start()
    there.close()  # now only the worker holds it, so its end is seen as the end of the pipe
    return _Worker(process, here)


def _hand_out(worker: _Worker, pending: deque[_Task]) -> None:
    worker.task = pending.popleft()
    worker.task.attempts += 1
    with contextlib.suppress(OSError):  # it died meanwhile: `_messages` will tell
        worker.connection.send_bytes(worker.task.work)


def _messages(pool: list[_Worker]) -> Iterator[tuple[_Worker, Any]]:
    """Wait until a worker has something to say, and yield (worker, message); ("died", None) stands for its end."""
    # The process too: something that the job started may hold the pipe open after the worker is gone.
    wait([thing for worker in pool for thing in (worker.connection, worker.process.sentinel)])
    for worker in list(pool):
        try:
            while worker.connection.poll():
                yield worker, worker.connection.recv()
        except (EOFError, OSError):
            yield worker, ("died", None)
        else:
            if not worker.process.is_alive() and not worker.connection.poll():
                yield worker, ("died", None)


def _reason(worker: _Worker) -> str:
    worker.process.join(_PATIENCE)
    code = worker.process.exitcode
    if code is None:
        return "without a word"
    if code >= 0:
        return f"with exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _check_starts(failed: int, retries: int, reason: str) -> None:
    if failed > retries:
        raise UsageError(
            f"a sweep starts processes of its own, and {failed} in a row ended before they could begin ({reason}); "
            "in a script, call run_jobs below `if __name__ == '__main__':`; or type workers=1"
        )


def _stop(pool: list[_Worker]) -> None:
    """End all workers: idle ones see their pipe close, busy ones are interrupted like by Ctrl-C and close their run."""
    for worker in pool:
        if worker.task is not None:
            worker.process.terminate()
        worker.connection.close()
    deadline = time.monotonic() + _PATIENCE
    for worker in pool:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C, which a terminal also sends to the workers, until a new one has set up its handlers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, threads: int) -> None:
    """Run the jobs that come through the pipe until it closes. This is what a worker does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    signal.signal(signal.SIGTERM, _interrupt)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    limit_threads(threads)
    with contextlib.suppress(KeyboardInterrupt, EOFError, OSError):
        connection.send(("ready", None))
        while True:
            work = connection.recv_bytes()
            with listening(_Teller(connection)), collected_notes() as notes:
                tried = attempt(lambda work=work: pickle.loads(work)())  # type: ignore[misc]
            connection.send(("ended", replace(tried, notes=tuple(notes))))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Teller:
    """Sends a job's own progress to the parent, a few times a second."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._next = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next or done == total:
            self._next = now + _PAUSE
            self._connection.send(("progress", (what, done, total)))


def limit_threads(threads: int) -> None:
    """Let torch use `threads` CPU threads, but no more than the environment (OMP_NUM_THREADS) allows."""
    import torch

    torch.set_num_threads(min(threads, torch.get_num_threads()))


@contextlib.contextmanager
def collected_notes() -> Iterator[list[str]]:
    """Yield a list that collects the `MeasurementWarning`s of the block; other warnings are printed as usual."""
    notes: list[str] = []
    before: Callable[..., None] = warnings.showwarning

    def show(message: Warning | str, *place: Any, **more: Any) -> None:
        if isinstance(message, MeasurementWarning):
            notes.append(" ".join(str(message).split()))
        else:
            before(message, *place, **more)

    warnings.showwarning = show
    try:
        yield notes
    finally:
        warnings.showwarning = before
