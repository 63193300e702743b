"""Running claims: train what is missing, reuse what is there, judge each claim and write its entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ics.claims.method.budgets import ClaimBudget
from ics.claims.method.claim import Claim
from ics.claims.method.claim_jobs import ClaimJobs
from ics.claims.method.judging import judge
from ics.experiments.data.examples import Progress
from ics.experiments.sweep import JobResult, run_jobs
from ics.ledger import Entry, write_entry


def run_claims(
    claims: Iterable[Claim],
    *,
    budget: ClaimBudget,
    to: Path,
    workers: int | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
    command: str = "",
    judged: Callable[[Entry], None] | None = None,
) -> list[Entry]:
    """Train and measure what is missing, judge every claim, and write the ledger below `to`.

    A claim is judged as soon as its last run has ended, while the others go on. Existing results are reused, so an
    interrupted call can be repeated and continues where it stopped. A run that fails is noted, and its claim has fewer
    seeds.

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
    pending = _PendingClaims([ClaimJobs.of(claim, budget, root) for claim in claims], command=command, judged=judged)
    # By folder, so that a run which several claims need is trained once.
    jobs = {job.to: job for claim_jobs in pending.by_claim for job in claim_jobs.jobs()}
    run_jobs(jobs.values(), workers=workers, cluster=cluster, progress=progress, ended=pending.take)
    return pending.entries()


class _PendingClaims:
    """Collects ended runs, and judges a claim once it waits for no more of them."""

    def __init__(self, by_claim: Sequence[ClaimJobs], *, command: str, judged: Callable[[Entry], None] | None) -> None:
        self.by_claim = by_claim
        self._folders = [[job.to for job in claim_jobs.jobs()] for claim_jobs in by_claim]
        self._awaited = [set(folders) for folders in self._folders]
        self._ended: dict[Path, JobResult] = {}
        self._entries: dict[int, Entry] = {}
        self._errors: list[Exception] = []
        self._command, self._judged = command, judged

    def take(self, result: JobResult) -> None:
        """Note the end of a job, and judge the claims for which it was the last."""
        self._ended[result.to] = result
        for place, awaited in enumerate(self._awaited):
            if result.to in awaited:
                awaited.remove(result.to)
                if not awaited:
                    self._judge(place)

    def entries(self) -> list[Entry]:
        """Return the entries; raise the first error of an evidence function."""
        for place, awaited in enumerate(self._awaited):
            if not awaited and not self._folders[place]:  # a claim that needs no run has no end to wait for
                self._judge(place)
        if self._errors:
            raise self._errors[0]
        return [self._entries[place] for place in sorted(self._entries)]

    def _judge(self, place: int) -> None:
        claim_jobs = self.by_claim[place]
        results = [self._ended[folder] for folder in self._folders[place]]
        failures = [f"{result.to.name}: {result.sentence}" for result in results if not result.ok]
        try:
            entry = judge(claim_jobs, failures=failures, command=self._command)
        except Exception as error:  # hours of other claims' runs must not stop for it
            error.add_note(f"while judging {claim_jobs.claim.id}")
            self._errors.append(error)
            return
        write_entry(claim_jobs.root, entry)
        self._entries[place] = entry
        if self._judged is not None:
            self._judged(entry)
