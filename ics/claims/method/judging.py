"""From what was recorded to an entry of the ledger: the effects of a claim, and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from ics.claims.method.claim import Claim
from ics.claims.method.claim_jobs import ClaimJobs
from ics.claims.method.effects import Effect
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import Outcome, Verdict, decide
from ics.claims.method.runs import identity
from ics.claims.method.settings_text import effect_rows, settings_text, study_text
from ics.claims.method.stored_results import versions
from ics.errors import IcsError
from ics.ledger import Entry


def judge(claim_jobs: ClaimJobs, *, failures: Sequence[str] = (), command: str = "") -> Entry:
    """Return the entry that the finished runs and studies of a claim give; `failures` describe those that failed."""
    effects, verdict = weigh(claim_jobs.claim, claim_jobs.evidence())
    voting = {criterion.measure for criterion in claim_jobs.claim.rule}
    notes = [
        f"{config.net}, seed {run.info.get('seed')}: {note}"
        for config in claim_jobs.configs
        for run in claim_jobs.runs_of(config)
        for note in run.info.get("notes") or []
    ]
    return Entry(
        id=claim_jobs.claim.id,
        budget=claim_jobs.budget.name,
        outcome=verdict.outcome.value,
        reason=verdict.reason,
        seeds_needed=verdict.seeds_needed,
        seeds=list(claim_jobs.seeds),
        effects=effect_rows(verdict, tuple(effect for effect in effects if effect.measure not in voting)),
        nets={config.net: identity(config) for config in claim_jobs.configs},
        studies={study.name: study.identity for study in claim_jobs.studies},
        published=claim_jobs.claim.published,
        remark=claim_jobs.claim.remark,
        notes=list(dict.fromkeys([*failures, *notes])),
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(claim_jobs.seconds(), 1),
        versions=versions(),
        commits=claim_jobs.commits(),
        nets_told={config.net: settings_text(identity(config)) for config in claim_jobs.configs},
        studies_told={study.name: study_text(study.identity) for study in claim_jobs.studies},
    )


def weigh(claim: Claim, evidence: Evidence) -> tuple[tuple[Effect, ...], Verdict]:
    """Return the effects of a claim and its verdict. Missing evidence leaves it inconclusive, with the reason."""
    try:
        effects = tuple(claim.evidence(evidence))
    except IcsError as error:
        # A table that no run recorded, a net that failed: the claim is open, and the others must still be judged.
        return (), Verdict(Outcome.INCONCLUSIVE, f"open: {error}", None, ())
    return effects, decide(effects, claim.rule)
