"""Running claims: what is missing is trained, what is there is reused, and each claim is judged and entered."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from ics.errors import IcsError
from ics.experiments.claims.budgets import Budget
from ics.experiments.claims.claim import Claim
from ics.experiments.claims.effects import Effect
from ics.experiments.claims.evidence import Evidence
from ics.experiments.claims.files import versions
from ics.experiments.claims.ledger import Entry, effect_rows, write_entry
from ics.experiments.claims.rules import Outcome, Verdict, decide
from ics.experiments.claims.runs import check_names, identity, is_run_done, make_run, reader_of, run_folder
from ics.experiments.claims.studies import Study, is_study_done, read_study, run_study
from ics.experiments.config import RunConfig
from ics.experiments.data import Progress
from ics.experiments.sweep import Job, run_jobs
from ics.experiments.sweep import Outcome as Ending
from ics.store import Run, open_run


@dataclass(frozen=True, slots=True)
class Work:
    """What a claim needs under a budget: each net and study with every seed, and the folder of each."""

    claim: Claim
    budget: Budget
    root: Path
    configs: tuple[RunConfig, ...]
    studies: tuple[Study, ...]

    @classmethod
    def of(cls, claim: Claim, budget: Budget, root: Path) -> Work:
        """Ask the claim."""
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

    def evidence(self) -> Evidence:
        """Return what was recorded, by the claim's own names for nets and studies."""
        results = {study.name: self.rows_of(study) for study in self.studies}
        return Evidence(
            reader_of({config.net: self.runs_of(config) for config in self.configs}),
            {name: rows for name, rows in results.items() if not rows.empty},
            {config.net: config for config in self.configs},
            self.budget,
        )


def run_claims(
    claims: Iterable[Claim],
    *,
    budget: Budget,
    to: Path,
    workers: int | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
    command: str = "",
    judged: Callable[[Entry], None] | None = None,
) -> list[Entry]:
    """Train and measure what is missing, judge every claim, and write the ledger below `to`.

    A claim is judged and entered as soon as the last of its runs has ended, while the others go on. Results that are
    there are reused, so a call that was interrupted goes on where it stopped. A run that fails is noted and leaves its
    claim fewer seeds.

    Args:
        claims: from `CLAIMS`.
        budget: seeds, nets and lengths.
        to: folder of runs, studies and the ledger.
        workers, cluster, progress: as `ics.experiments.sweep.run_jobs` takes them.
        command: how this was called, for the ledger.
        judged: called with each entry as it is written.

    Returns:
        The entries in the order of `claims`.

    Raises:
        UsageError: a claim's nets cannot be trained under this budget, e.g. for lack of images.
        Exception: what the evidence function of a claim raised, after all others were judged.
    """
    root = to.expanduser().absolute()  # workers may stand elsewhere
    desk = _Desk([Work.of(claim, budget, root) for claim in claims], command=command, judged=judged)
    jobs = {job.to: job for work in desk.works for job in work.jobs()}
    run_jobs(jobs.values(), workers=workers, cluster=cluster, progress=progress, ended=desk.take)
    return desk.entries()


class _Desk:
    """Where ended runs arrive: a claim that waits for no more of them is judged and entered."""

    def __init__(self, works: Sequence[Work], *, command: str, judged: Callable[[Entry], None] | None) -> None:
        self.works = works
        self._folders = [[job.to for job in work.jobs()] for work in works]
        self._awaited = [set(folders) for folders in self._folders]
        self._ended: dict[Path, Ending] = {}
        self._entries: dict[int, Entry] = {}
        self._errors: list[Exception] = []
        self._command, self._judged = command, judged

    def take(self, outcome: Ending) -> None:
        """Note the end of a job, and judge the claims for which it was the last."""
        self._ended[outcome.to] = outcome
        for place, awaited in enumerate(self._awaited):
            if outcome.to in awaited:
                awaited.remove(outcome.to)
                if not awaited:
                    self._judge(place)

    def entries(self) -> list[Entry]:
        """Return what was entered; raise what went wrong in an evidence function."""
        for place, awaited in enumerate(self._awaited):
            if not awaited and not self._folders[place]:  # a claim that needs no run has no end to wait for
                self._judge(place)
        if self._errors:
            raise self._errors[0]
        return [self._entries[place] for place in sorted(self._entries)]

    def _judge(self, place: int) -> None:
        work = self.works[place]
        outcomes = [self._ended[folder] for folder in self._folders[place]]
        failures = [f"{outcome.to.name}: {outcome.sentence}" for outcome in outcomes if not outcome.ok]
        seconds = sum(outcome.seconds for outcome in outcomes)
        try:
            entry = judge(work, failures=failures, seconds=seconds, command=self._command)
        except Exception as error:  # hours of other claims' runs must not stop for it
            error.add_note(f"while judging {work.claim.id}")
            self._errors.append(error)
            return
        write_entry(work.root, entry)
        self._entries[place] = entry
        if self._judged is not None:
            self._judged(entry)


def judge(work: Work, *, failures: Sequence[str] = (), seconds: float = 0.0, command: str = "") -> Entry:
    """Return what the finished runs and studies of a claim say; `seconds` is what running them took."""
    begin = time.perf_counter()
    effects, verdict = weigh(work.claim, work.evidence())
    voting = {criterion.measure for criterion in work.claim.rule}
    notes = [
        f"{config.net}, seed {run.info.get('seed')}: {note}"
        for config in work.configs
        for run in work.runs_of(config)
        for note in run.info.get("notes") or []
    ]
    return Entry(
        id=work.claim.id,
        budget=work.budget.name,
        outcome=verdict.outcome.value,
        reason=verdict.reason,
        seeds_needed=verdict.seeds_needed,
        seeds=list(work.seeds),
        effects=effect_rows(verdict, tuple(effect for effect in effects if effect.measure not in voting)),
        nets={config.net: identity(config) for config in work.configs},
        studies={study.name: study.identity for study in work.studies},
        published=work.claim.published,
        remark=work.claim.remark,
        notes=list(dict.fromkeys([*failures, *notes])),
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds + time.perf_counter() - begin, 1),
        versions=versions(),
    )


def weigh(claim: Claim, evidence: Evidence) -> tuple[tuple[Effect, ...], Verdict]:
    """Return the effects of a claim and its verdict; what was not recorded leaves it inconclusive, and says so."""
    try:
        effects = tuple(claim.evidence(evidence))
    except IcsError as error:
        return (), Verdict(Outcome.INCONCLUSIVE, f"open: {error}", None, ())
    return effects, decide(effects, claim.rule)


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
