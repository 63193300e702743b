"""How a claim is asked and judged: what is run, which effects are estimated, and the rule that decides."""

from ics.claims.method.budgets import BUDGETS, ClaimBudget, base, budget_named, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, difference, per_seed, ratio, value
from ics.claims.method.estimates import Estimate, estimate, seeds_needed
from ics.claims.method.evidence import Evidence, MissingEvidenceError
from ics.claims.method.judging import weigh
from ics.claims.method.rules import Criterion, Outcome, Verdict, above, below, decide, equals, within
from ics.claims.method.running import run_claims
from ics.claims.method.studies import Study

__all__ = [
    "BUDGETS",
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
    "decide",
    "difference",
    "equals",
    "estimate",
    "net_name",
    "per_seed",
    "ratio",
    "run_claims",
    "seeds_needed",
    "value",
    "weigh",
    "within",
]
