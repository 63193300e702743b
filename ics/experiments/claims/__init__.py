"""The claims ledger: what is said about BatchNorm, each sentence as an experiment with a rule fixed beforehand."""

from ics.experiments.claims.budgets import BUDGETS, Budget, base, budget_named, net_name
from ics.experiments.claims.claim import Claim
from ics.experiments.claims.effects import Effect, difference, per_seed, ratio, value
from ics.experiments.claims.estimates import Estimate, estimate, seeds_needed
from ics.experiments.claims.evidence import Evidence, MissingEvidenceError
from ics.experiments.claims.judging import weigh
from ics.experiments.claims.measures import diverged, final_loss, steps_to
from ics.experiments.claims.measuring import run_claims
from ics.experiments.claims.registry import CLAIMS, claims_named
from ics.experiments.claims.rules import Criterion, Outcome, Verdict, above, below, decide, equals, within
from ics.experiments.claims.studies import Study

__all__ = [
    "BUDGETS",
    "CLAIMS",
    "Budget",
    "Claim",
    "Criterion",
    "Effect",
    "Estimate",
    "Evidence",
    "MissingEvidenceError",
    "Outcome",
    "Study",
    "Verdict",
    "above",
    "base",
    "below",
    "budget_named",
    "claims_named",
    "decide",
    "difference",
    "diverged",
    "equals",
    "estimate",
    "final_loss",
    "net_name",
    "per_seed",
    "ratio",
    "run_claims",
    "seeds_needed",
    "steps_to",
    "value",
    "weigh",
    "within",
]
