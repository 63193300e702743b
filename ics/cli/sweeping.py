"""Trains many configurations from the command line: bars while they run, a table of results afterwards."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ics.cli.console import Report, print_frame, progress_bar
from ics.errors import UsageError

if TYPE_CHECKING:
    from ics.experiments import RunConfig
    from ics.experiments.sweep import Job, JobResult

_MOST_BARS = 8
"""More runs than this share one bar."""


def train_jobs(jobs: Sequence[Job], *, workers: int | None, cluster: str | None, overwrite: bool) -> list[JobResult]:
    """Run the jobs with bars on stderr, print the notes of their measurements, and return the results."""
    from ics.experiments.sweep import run_jobs

    with progress_bar() as report:
        results = run_jobs(
            jobs,
            workers=workers,
            cluster=cluster,
            reuse=not overwrite,
            progress=report if len(jobs) > 1 else None,
            own_progress=report if len(jobs) <= _MOST_BARS else None,
        )
    for result in results:  # after the bars have ended, which would draw over the lines
        for note in result.notes:
            typer.echo(f"ics: note: {result.name}: {note}", err=True)
    return results


def print_results(configs: Sequence[RunConfig], results: Sequence[JobResult]) -> None:
    """Print a row per run: net, seed, outcome, last loss and accuracy, seconds, and folder."""
    import pandas as pd

    rows = [
        {
            "net": config.net,
            "seed": config.seed,
            "outcome": result.state if result.attempts < 2 else f"{result.state}, attempt {result.attempts}",
            **_last_values(result),
            "seconds": result.seconds if result.attempts else None,
            "folder": _short(result.to),
        }
        for config, result in zip(configs, results, strict=True)
    ]
    print_frame(pd.DataFrame(rows))


def how_to_read(paths: Sequence[Path]) -> str:
    """Return the lines that say how to open these runs, named one by one."""
    names = shlex.join(_short(path) for path in paths)
    return f"Recorded {names}\nLook: ics show {_short(paths[0])}\nDraw: ics report {names}"


def how_to_read_folder(folder: Path) -> str:
    """Return the lines that say how to open all runs of a folder."""
    name = _short(folder)
    return f'Open: ics.open_runs("{name}")\nDraw: ics report {shlex.quote(f"{name}/*")}'


def raise_failures(results: Sequence[JobResult]) -> None:
    """Raise a `UsageError` that counts the failed runs and explains the first; print its traceback if there is one."""
    failed = [result for result in results if not result.ok]
    if not failed:
        return
    if failed[0].traceback is not None:
        typer.echo(failed[0].traceback, err=True)
    if len(results) == 1:
        raise UsageError(failed[0].sentence)
    raise UsageError(
        f"{len(failed)} of {len(results)} runs failed, the first, {failed[0].name}, because: {failed[0].sentence}"
    )


def fetch(configs: Sequence[RunConfig], report: Report) -> None:
    """Fetch each data set once, here, so that workers do not fetch it at the same time."""
    from ics.experiments import load_data

    for config in {(config.data, config.data_root): config for config in configs}.values():
        load_data(config, download=True, progress=report)


def _last_values(result: JobResult) -> dict[str, float | None]:
    """Return the last loss and test accuracy that a run logged."""
    import ics

    if not result.ok:
        return {"loss": None, "test_accuracy": None}
    steps = ics.open_run(result.to).table("steps")
    # A run logs its accuracy at few steps or never: nulls are dropped, a missing column counts as empty.
    logged = {name: steps[name].dropna() if name in steps else steps["loss"][:0] for name in ("loss", "test_accuracy")}
    return {name: None if values.empty else float(values.iloc[-1]) for name, values in logged.items()}


def _short(path: Path) -> str:
    """Return a path relative to the current folder if it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path)
