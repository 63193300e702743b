"""`Claim`: a statement, the runs it needs, what is measured, and the rule that decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ics.claims.method.budgets import ClaimBudget
from ics.claims.method.effects import Effect
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import Criterion
from ics.claims.method.study import Study
from ics.errors import UsageError, unknown_name
from ics.experiments.training.config import RunConfig
from ics.ledger import STATEMENTS, Statement


def _nothing(budget: ClaimBudget) -> tuple[()]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim as an experiment.

    Attributes:
        id: `"C01"`, `"C02"`, ...; its sentence and source are in `STATEMENTS`.
        evidence: from recorded tables to effects. A pure function, tested on synthetic tables.
        rule: the criteria, fixed before anything was measured.
        nets: the trainings it needs, without seeds, which the budget sets. `net` names them in the evidence. Trainings
            that differ only in this name are run once for all claims.
        studies: measurements that the tables of a training do not hold, also without seeds, named in the evidence.
        published: what the source reports, with its setting and numbers, for comparison with what was found.
        remark: how to read the result, and what this setting leaves out.
    """

    id: str
    evidence: Callable[[Evidence], tuple[Effect, ...]]
    rule: tuple[Criterion, ...]
    nets: Callable[[ClaimBudget], tuple[RunConfig, ...]] = _nothing
    studies: Callable[[ClaimBudget], tuple[Study, ...]] = _nothing
    published: str = ""
    remark: str = ""

    def __post_init__(self) -> None:
        if self.id not in STATEMENTS:
            raise unknown_name("claim", self.id, STATEMENTS)
        if not self.rule:
            raise UsageError(f"{self.id} needs a rule that decides it; type e.g. rule=(below('shift', 0.9),)")

    @property
    def statement(self) -> Statement:
        """Title, sentence and source."""
        return STATEMENTS[self.id]
