"""What a claim needs under a budget: the jobs of its runs and studies, and their results as evidence."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ics.claims.method.budgets import ClaimBudget
from ics.claims.method.claim import Claim
from ics.claims.method.evidence import Evidence
from ics.claims.method.runs import check_names, is_run_done, make_run, reader_of, run_folder
from ics.claims.method.study import STUDY_FILE, Study, is_study_done, read_study, run_study
from ics.experiments.sweep import Job
from ics.experiments.training.config import RunConfig
from ics.ledger.files import read_json
from ics.store import Run, open_run


@dataclass(frozen=True, slots=True)
class ClaimJobs:
    """What a claim needs under a budget: each net and study with every seed, and the folder of each."""

    claim: Claim
    budget: ClaimBudget
    root: Path
    configs: tuple[RunConfig, ...]
    studies: tuple[Study, ...]

    @classmethod
    def of(cls, claim: Claim, budget: ClaimBudget, root: Path) -> ClaimJobs:
        """Ask the claim for its nets and studies."""
        configs = claim.nets(budget)
        check_names(configs)
        return cls(claim, budget, root, configs, claim.studies(budget))

    @property
    def seeds(self) -> range:
        """The seeds of the budget."""
        return range(self.budget.num_seeds)

    def jobs(self) -> list[Job]:
        """Return a job per net, study and seed."""
        runs = [config.replace(seed=seed) for config in self.configs for seed in self.seeds]
        studies = [study.with_seed(seed) for study in self.studies for seed in self.seeds]
        return [
            *(_training_job(config, self.root) for config in runs),
            *(_study_job(one, self.root) for one in studies),
        ]

    def runs_of(self, config: RunConfig) -> list[Run]:
        """Return the finished runs of a net."""
        seeded = [config.replace(seed=seed) for seed in self.seeds]
        folders = {one: run_folder(self.root, one) for one in seeded}
        return [open_run(folder) for one, folder in folders.items() if is_run_done(one, folder)]

    def rows_of(self, study: Study) -> pd.DataFrame:
        """Return the rows of every finished seed of a study."""
        seeded = [study.with_seed(seed) for seed in self.seeds]
        frames = [
            read_study(self.root / "studies" / one.folder_name).assign(seed=one.seed)
            for one in seeded
            if is_study_done(one, self.root / "studies" / one.folder_name)
        ]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def seconds(self) -> float:
        """Return how long the finished runs and studies took, whenever they were made."""
        runs = [run.info for config in self.configs for run in self.runs_of(config)]
        studies = [info for study in self.studies for info in self._infos_of(study)]
        return sum(map(_seconds, [*runs, *studies]))

    def commits(self) -> list[str]:
        """Return the git commits of the folders in which its runs were made."""
        runs = [run.info.get("git_commit") for config in self.configs for run in self.runs_of(config)]
        return sorted({str(commit)[:9] for commit in runs if commit})

    def _infos_of(self, study: Study) -> list[dict[str, Any]]:
        folders = {one: self.root / "studies" / one.folder_name for one in map(study.with_seed, self.seeds)}
        return [read_json(to / STUDY_FILE) for one, to in folders.items() if is_study_done(one, to)]

    def evidence(self) -> Evidence:
        """Return what was recorded, under the claim's own names for nets and studies."""
        results = {study.name: self.rows_of(study) for study in self.studies}
        return Evidence(
            reader_of({config.net: self.runs_of(config) for config in self.configs}),
            {name: rows for name, rows in results.items() if not rows.empty},
            {config.net: config for config in self.configs},
            self.budget,
        )


def _training_job(config: RunConfig, root: Path) -> Job:
    to = run_folder(root, config)
    return Job(
        name=f"{config.net}, seed {config.seed}",
        to=to,
        run=functools.partial(make_run, config, to),
        is_done=functools.partial(is_run_done, config, to),
        threads=config.num_threads,
        gpus=int(_wants_gpu(config)),
    )


def _study_job(study: Study, root: Path) -> Job:
    to = root / "studies" / study.folder_name
    return Job(
        name=f"{study.name}, seed {study.seed}",
        to=to,
        run=functools.partial(run_study, study, to),
        is_done=functools.partial(is_study_done, study, to),
        threads=1,
    )


def _wants_gpu(config: RunConfig) -> bool:
    import torch

    return config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available())


def _seconds(info: Mapping[str, Any]) -> float:
    started, ended = (datetime.fromisoformat(info[name]) for name in ("started", "ended"))
    return (ended - started).total_seconds()
