"""How a claim is asked and judged: what is run, which effects are estimated, and the rule that decides."""

from ics.experiments.claims.method.budgets import BUDGETS, Budget, base, budget_named, net_name
from ics.experiments.claims.method.claim import Claim
from ics.experiments.claims.method.effects import Effect, difference, per_seed, ratio, value
from ics.experiments.claims.method.estimates import Estimate, estimate, seeds_needed
from ics.experiments.claims.method.evidence import Evidence, MissingEvidenceError
from ics.experiments.claims.method.judging import weigh
from ics.experiments.claims.method.measuring import run_claims
from ics.experiments.claims.method.rules import Criterion, Outcome, Verdict, above, below, decide, equals, within
from ics.experiments.claims.method.studies import Study

__all__ = [
    "BUDGETS",
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
