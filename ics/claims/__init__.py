"""The claims ledger: what is said about BatchNorm, each sentence as an experiment with a rule fixed beforehand."""

from ics.claims.measures.training import diverged, final_loss, steps_to
from ics.claims.method.budgets import BUDGETS, ClaimBudget, base, budget_named, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, difference, per_seed, ratio, value
from ics.claims.method.estimates import Estimate, estimate, seeds_needed
from ics.claims.method.evidence import Evidence, MissingEvidenceError
from ics.claims.method.judging import weigh
from ics.claims.method.rules import Criterion, Outcome, Verdict, above, below, decide, equals, within
from ics.claims.method.running import run_claims
from ics.claims.method.study import Study
from ics.claims.registry import CLAIMS, claims_named

__all__ = [
    "BUDGETS",
    "CLAIMS",
    "Claim",
    "ClaimBudget",
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
