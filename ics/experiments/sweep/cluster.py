"""Jobs as tasks of a Ray cluster. Ray is an optional extra, imported only here and only if a cluster is asked for.

Tasks are retried here and not by Ray's `max_retries`: Ray retries what its memory monitor killed without limit (its
documentation, "Out-Of-Memory Prevention"), and does not say how often. Here every death counts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ics import __version__
from ics.errors import UsageError
from ics.experiments.sweep.jobs import Attempt, Job, JobResult, attempt, available_cores, dead, result_of, sentence_of
from ics.experiments.sweep.processes import collected_notes, limit_threads

LOCAL = "local"
_PATIENCE = 10.0
"""Seconds that interrupted tasks have to close their runs, and that a network file system has to show a result."""


def run_on_cluster(
    jobs: Sequence[Job], *, address: str, workers: int | None, retries: int
) -> Generator[tuple[int, JobResult], None, None]:
    """Yield (place in `jobs`, result) as jobs end; closing the generator cancels what runs.

    Args:
        jobs: what to do; each takes `threads` CPUs (one if it says nothing) and `gpus` GPUs of the cluster.
        address: `"local"`, or that of a cluster.
        workers: most tasks at a time; None leaves it to the cluster.
        retries: how often a job is tried again whose worker or machine died.

    Raises:
        UsageError: Ray is not installed, there is no cluster at the address, or this machine has no room for a job.
    """
    ray = import_ray()
    with _connected(ray, address, jobs, workers):
        task = ray.remote(max_retries=0)(_run_there)
        pending = deque(enumerate(jobs))
        attempts = [0] * len(jobs)
        running: dict[Any, int] = {}
        try:
            while pending or running:
                while pending and (workers is None or len(running) < workers):
                    place, job = pending.popleft()
                    attempts[place] += 1
                    running[_submit(task, job)] = place
                for reference in ray.wait(list(running), num_returns=1)[0]:
                    place = running.pop(reference)
                    ended = _result(ray, reference)
                    if isinstance(ended, str) and attempts[place] <= retries:
                        pending.append((place, jobs[place]))
                    elif isinstance(ended, str):
                        yield place, dead(jobs[place], ended, attempts=attempts[place])
                    else:
                        _wait_for(jobs[place], ended)
                        yield place, result_of(jobs[place], ended, attempts=attempts[place])
        finally:
            _cancel(ray, list(running))


def import_ray() -> Any:
    """Return the package `ray`.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            f"a cluster needs Ray, which is not installed ({error}); type pip install ray, "
            "or leave the cluster out and processes on this machine do the work"
        ) from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str, jobs: Sequence[Job], workers: int | None) -> Iterator[None]:
    """Join the cluster or start one here; an existing connection of the caller is used and left open."""
    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == LOCAL:
        settings |= {"num_cpus": _cores_for(jobs, workers), "include_dashboard": False}
    try:
        ray.init(address=address, **settings)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError, ... by the kind of address
        raise UsageError(
            f"no Ray cluster answers at {address!r} ({sentence_of(error)}); type the address that `ray start` printed, "
            "or cluster='local' for one on this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _cores_for(jobs: Sequence[Job], workers: int | None) -> int:
    """CPUs for a local Ray: those of this machine, or as many as the requested workers need."""
    threads = max(job.threads or 1 for job in jobs)
    return max(available_cores(), threads) if workers is None else workers * threads


def _submit(task: Any, job: Job) -> Any:
    options = task.options(name=job.name, num_cpus=job.threads or 1, num_gpus=job.gpus)
    # Paths that a configuration holds (data, a model of one's own) are relative to where the sweep was started.
    return options.remote(job.run, os.getcwd(), job.threads or 1, __version__)


def _run_there(run: Callable[[], object], folder: str, threads: int, version: str) -> Attempt:
    """Run a job once. Runs on the cluster."""
    if __version__ != version:  # runs of one sweep are compared: they must be trained and recorded alike
        return Attempt(0.0, f"this machine of the cluster has ics {__version__}, the sweep was started by {version}")
    if os.path.isdir(folder):
        os.chdir(folder)
    limit_threads(threads)
    with collected_notes() as notes:
        tried = attempt(run)
    return replace(tried, notes=tuple(notes))


def _result(ray: Any, reference: Any) -> Attempt | str:
    """Return the result of a task, or, if its worker or machine died, how."""
    try:
        return ray.get(reference)
    except (ray.exceptions.RayTaskError, ray.exceptions.TaskCancelledError) as error:
        cause = getattr(error, "cause", None) or error
        return Attempt(0.0, sentence_of(cause), str(error))
    except ray.exceptions.RayError as error:
        return type(error).__name__


def _wait_for(job: Job, ended: Attempt) -> None:
    """Give a network file system a moment to show here what was written elsewhere."""
    deadline = time.monotonic() + _PATIENCE
    while ended.sentence is None and not job.is_done() and time.monotonic() < deadline:
        time.sleep(0.2)


def _cancel(ray: Any, references: list[Any]) -> None:
    """Interrupt tasks as by Ctrl-C, and wait until they have closed their runs."""
    for reference in references:
        ray.cancel(reference, force=False)
    if references:
        ray.wait(references, num_returns=len(references), timeout=_PATIENCE)
