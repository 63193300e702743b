"""`run_jobs`: reuse existing results, and run the rest in this process, in other processes, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing

from ics.errors import UsageError
from ics.experiments.data.examples import Progress
from ics.experiments.sweep.jobs import Job, JobResult, attempt, available_cores, listening, named, result_of
from ics.experiments.sweep.processes import run_in_processes

WHAT = "runs"
"""What the progress of a sweep is called."""


def run_jobs(
    jobs: Iterable[Job],
    *,
    workers: int | None = None,
    cluster: str | None = None,
    retries: int = 2,
    reuse: bool = True,
    progress: Progress | None = None,
    own_progress: Progress | None = None,
    ended: Callable[[JobResult], None] | None = None,
) -> list[JobResult]:
    """Run jobs in parallel and return how each ended, in their order.

    A job whose result exists is not run again. An error in a job becomes the sentence of its result, and the others go
    on. A worker that dies (killed, out of memory) is replaced, and its job is tried again, up to `retries` times, after
    all others. An interrupt stops the workers, each of which closes its run, and is raised again. Finished results
    stay, so the same call resumes.

    Args:
        jobs: what to do.
        workers: jobs at a time. 1 runs them in this process, where none can die alone. None takes as many as
            there are cores for their threads, and one for each GPU where they need one; on an existing cluster, as many
            as it has room for. Cores that are left over become threads of the jobs that ask for no number of threads.
        cluster: `"local"` starts Ray on this machine and stops it afterwards, an address (`"auto"`, `"host:6379"`,
            `"ray://host:10001"`) joins a cluster that is there. Every machine of it must see the same file system
            under the same paths and have the same version of this package. None takes processes on this machine.
        retries: how often a job is tried again whose worker died.
        reuse: leave jobs alone that are done already; False runs them all.
        progress: called as `progress("runs", done, total)`.
        own_progress: called as `own_progress(job.name, done, total)` as a job trains, `"NAME: decoding images"` for
            what else it does, a few times a second; not on a cluster.
        ended: called with each result as its job ends, those that are there first; the other jobs go on meanwhile.

    Raises:
        UsageError: two jobs share a folder, a job cannot be sent to another process, no worker starts, Ray is absent or
            the cluster is not there.

    Example:
        >>> from ics.experiments import recipe
        >>> from ics.experiments.sweep import jobs_of, run_jobs
        >>> configs = [recipe("digits-mlp", seed=seed) for seed in range(5)]
        >>> results = run_jobs(jobs_of(configs, "runs/grid"))  # doctest: +SKIP

    In a script, the call stands below `if __name__ == "__main__":`, since the processes import the script.
    """
    jobs = list(jobs)
    _check(jobs, workers, retries)
    there = {
        number: JobResult(job.name, job.to, "reused", attempts=0)
        for number, job in enumerate(jobs)
        if reuse and job.is_done()
    }
    todo = [number for number in range(len(jobs)) if number not in there]
    results = dict(there)
    _report(progress, len(results), len(jobs))
    for result in there.values():
        _tell(ended, result)
    with closing(_run([jobs[number] for number in todo], workers, cluster, retries, own_progress)) as endings:
        for place, result in endings:
            results[todo[place]] = result
            _report(progress, len(results), len(jobs))
            _tell(ended, result)
    return [results[number] for number in range(len(jobs))]


def default_workers(jobs: Sequence[Job]) -> int:
    """Return how many of these jobs this machine runs at a time, by their threads and the GPUs that they need."""
    room = max(1, available_cores() // max(job.threads or 1 for job in jobs))
    if any(job.gpus for job in jobs):
        import torch

        room = min(room, max(1, torch.cuda.device_count()))
    return min(room, len(jobs))


def _run(
    jobs: list[Job], workers: int | None, cluster: str | None, retries: int, own_progress: Progress | None
) -> Generator[tuple[int, JobResult], None, None]:
    """Yield (place in `jobs`, result) as jobs end."""
    if not jobs:
        return _run_here([], None)
    if cluster is not None:
        from ics.experiments.sweep.cluster import run_on_cluster

        return run_on_cluster(jobs, address=cluster, workers=workers, retries=retries)
    number = min(workers or default_workers(jobs), len(jobs))
    # One at a time needs no process beside this one, unless it was asked for: starting it would only take longer.
    if workers == 1 or (workers is None and number == 1):
        return _run_here(jobs, own_progress)
    return run_in_processes(jobs, workers=number, retries=retries, own_progress=own_progress)


def _run_here(jobs: list[Job], own_progress: Progress | None) -> Generator[tuple[int, JobResult], None, None]:
    for place, job in enumerate(jobs):
        with listening(named(own_progress, job.name)):
            tried = attempt(job.run)
        yield place, result_of(job, tried, attempts=1)


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(WHAT, done, total)


def _tell(ended: Callable[[JobResult], None] | None, result: JobResult) -> None:
    if ended is not None:
        ended(result)


def _check(jobs: list[Job], workers: int | None, retries: int) -> None:
    for name, value, least in (("workers", workers, 1), ("retries", retries, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise UsageError(f"{name} is a whole number of at least {least}, got {value!r}")
    owners: dict[str, str] = {}
    for job in jobs:
        place = str(job.to.absolute())
        if place in owners:
            raise UsageError(f"each job has a folder of its own, got {job.to} for {owners[place]} and for {job.name}")
        owners[place] = job.name
