"""Reproduce the deep linear net of Santurkar et al. 2018: train its four nets, then write docs/deep_linear.md.

    .venv/bin/python -m scripts.deep_linear                # train three seeds of the four nets; finished runs are kept
    .venv/bin/python -m scripts.deep_linear --page         # figures, tables and CSV of the page, from the runs alone

25 layers of 10 x 10 learn y = A x by gradient descent on all 1000 samples, with and without BatchNorm, at learning
rates 1e-6 and 1e-7. Cost: see docs/deep_linear.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import ics
from ics.experiments import LABELS, RunConfig, recipe

ROOT = Path(__file__).parents[1]
LEARNING_RATES = (1e-6, 1e-7)
STEPS = 10_000
SEEDS = (0, 1, 2)
NUM_LOG_SPACED = 60
EVERY = 500
EXTRA = (100,)


@dataclass(frozen=True, slots=True)
class Job:
    """One training, and the folder it goes to."""

    config: RunConfig
    folder: Path


def measured_steps(steps: int) -> list[int]:
    """Return the steps that are measured: 0, 60 on a logarithmic axis up to the last, 100, and every 500th.

    The logarithmic steps follow the early changes; every 500th has steps 1000 and 2000 among them and spreads evenly
    over the training, so that "most steps" does not mean "most early steps".
    """
    chosen = set(ics.log_spaced(NUM_LOG_SPACED, until=max(steps - 1, 1)).steps) | set(range(0, steps, EVERY))
    return sorted(step for step in chosen | set(EXTRA) if step < steps)


def config_of(*, norm: str, learning_rate: float, seed: int, steps: int = STEPS) -> RunConfig:
    """Return the configuration of one net."""
    schedule = f"at({measured_steps(steps)})"
    return recipe(
        "deep-linear",
        norm=norm,
        learning_rate=learning_rate,
        seed=seed,
        steps=steps,
        instruments={"gradient_shift": schedule, "gradient_line": schedule},
    )


def jobs(*, to: Path, seeds: list[int], steps: int = STEPS) -> list[Job]:
    """Return all trainings, seed by seed; within a seed BatchNorm, which takes longest, first."""
    return [
        Job(
            config_of(norm=norm, learning_rate=rate, seed=seed, steps=steps),
            to / f"{LABELS[norm].lower()}-{rate:.0e}-{seed}",
        )
        for seed in seeds
        for norm in ("batch", "none")
        for rate in LEARNING_RATES
    ]


def is_done(job: Job) -> bool:
    """Return whether the folder holds this very training, completed."""
    if not (job.folder / "run.json").exists():
        return False
    run = ics.open_run(job.folder)
    return run.state == "completed" and run.info["config"] == job.config.as_dict()


def train_one(job: Job) -> float:
    """Train, and return the seconds it took; what an unfinished training left is replaced."""
    from ics.experiments import train

    started = time.perf_counter()
    train(job.config, to=job.folder, overwrite=job.folder.exists())
    return time.perf_counter() - started


def train_all(missing: list[Job], *, processes: int) -> None:
    """Train in parallel processes of one thread each, and print what is done."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = {pool.submit(train_one, job): job for job in missing}
        for future in as_completed(futures):
            print(f"{futures[future].folder.name}: {future.result():.0f} s", flush=True)


def main() -> None:
    """Train what is not there yet, or write the page."""
    parser = argparse.ArgumentParser(description="The deep linear net of Santurkar et al. 2018.")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="default: 0 1 2")
    parser.add_argument("--to", type=Path, default=ROOT / "runs" / "deep-linear", help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes (default: %(default)s)")
    parser.add_argument("--page", action="store_true", help="train nothing; write docs/deep_linear.* from the runs")
    arguments = parser.parse_args()
    if arguments.page:
        from scripts.deep_linear_page import write_page

        write_page(arguments.to, docs=ROOT / "docs")
        return
    everything = jobs(to=arguments.to, seeds=arguments.seeds, steps=arguments.steps)
    missing = [job for job in everything if not is_done(job)]
    print(f"{len(everything) - len(missing)} of {len(everything)} runs are complete", flush=True)
    started = time.perf_counter()
    train_all(missing, processes=arguments.jobs)
    print(f"all: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
