"""Jobs of sweeps that do what is asked of them, in whatever process they run."""

from __future__ import annotations

import functools
import os
import signal
import time
import warnings
from pathlib import Path

import torch

import ics
from ics.experiments.sweep import Job


def behave(to: Path, how: str) -> None:
    """Write process and threads to `to / "done"`, or do as `how` says; each try is a line of `to / "tries"`."""
    to.mkdir(parents=True, exist_ok=True)
    with open(to / "tries", "a") as file:
        file.write(f"{os.getpid()}\n")
    if how == "die" or (how == "die once" and tries(to) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise ZeroDivisionError("three apples\nfor nobody")
    if how == "mistake":
        raise ics.UsageError("expected apples, got pears")
    if how == "exit":
        raise SystemExit(3)
    if how == "warn":
        warnings.warn("a pear was measured", ics.MeasurementWarning, stacklevel=1)
    if how == "wait":
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            (to / "closed").write_text("")
            raise
    if how != "nothing":
        (to / "done").write_text(f"{os.getpid()} {torch.get_num_threads()}")


def is_there(to: Path) -> bool:
    return (to / "done").exists()


def tries(to: Path) -> int:
    return len((to / "tries").read_text().splitlines()) if (to / "tries").exists() else 0


def job(folder: Path, how: str, *, name: str | None = None, threads: int | None = None) -> Job:
    to = folder / (name or how)
    return Job(to.name, to, functools.partial(behave, to, how), functools.partial(is_there, to), threads=threads)
