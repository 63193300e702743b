"""The plans of a model, kept from step to step, and how probes use and make them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ics.probes.counted_passes import ForwardPasses
from ics.probes.following.site_rows import MeasuredSites, Wanted
from ics.probes.hooks import Watch
from ics.probes.normalization.plan import NormalizationLearner, NormalizationPlan
from ics.probes.planned.learner import Learner
from ics.probes.planned.plan import SitePlan
from ics.probes.structure.grouping import Grouping, followed_modules

_GROUPINGS: tuple[Grouping, ...] = ("paper", "leaf")


@dataclass
class Plans:
    """The plans of one model, one for each kind of measurement; kept from step to step.

    After `RENEWED_AFTER` uses a pass is followed again and the plan made anew: a change that no hook of a plan can see
    (a functional activation that a model starts to apply in the middle of its training) is found then.
    """

    RENEWED_AFTER = 100

    by_kind: dict[Any, Any] = field(default_factory=dict)
    uses: dict[Any, int] = field(default_factory=dict)

    def get(self, key: Any) -> Any:
        """Return the plan to use now; None if the pass is to be followed."""
        self.uses[key] = self.uses.get(key, 0) + 1
        # The step that finds None is followed, and its plan replaces the one that is kept.
        return None if self.uses[key] % self.RENEWED_AFTER == 0 else self.by_kind.get(key)

    def refused(self, key: Any) -> bool:
        """Return whether the model was found to have no plan."""
        return key in self.by_kind and self.by_kind[key] is None


class ProbePlans:
    """Two plans of a pass: of the sites, and of the normalisations, which either may lack.

    Args:
        plans: what earlier probes of the model learned; None for no plans at all.
        wanted: what is to be measured. Plans are told apart by it: other instruments need other rows of the same pass.
    """

    def __init__(self, plans: Plans | None, wanted: Wanted) -> None:
        self.normalization_learner: NormalizationLearner | None = None
        self.measures_sites = wanted.activations is not None or wanted.gradients is not None
        self._learner: Learner | None = None
        self._plans, self._wanted = plans, wanted
        # The two plans are found by different keys, since a step that measures normalisations alone can share the
        # plan of theirs with one that measures sites as well.
        self._sites: Hashable = replace(wanted, normalization=False)
        self._normalizations: Hashable = ("normalization", wanted.layers)

    def of_sites(self) -> SitePlan | None:
        """Return the plan of the sites to use now, if there is one."""
        return None if self._plans is None else self._plans.get(self._sites)

    def of_normalizations(self) -> NormalizationPlan | None:
        """Return the plan of the normalisations to use now, if they are wanted and there is one."""
        plan: Any = (
            self._plans.get(self._normalizations) if self._plans is not None and self._wanted.normalization else None
        )
        return plan if isinstance(plan, NormalizationPlan) else None

    def learn(self, followed: Wanted, model: nn.Module, forward: ForwardPasses) -> Learner | None:
        """Prepare to make the plans that a pass of the model, about to be followed, can give."""
        if self._plans is not None and followed.normalization and not self._plans.refused(self._normalizations):
            self.normalization_learner = NormalizationLearner(followed_modules(model), forward)
        if self._plans is not None and self.measures_sites and not self._plans.refused(self._sites):
            self._learner = Learner(forward)
        return self._learner

    def made_of(self, watch: Watch, measured: MeasuredSites) -> None:
        """Make the plans of the pass that was followed."""
        if self._plans is None:
            return
        plans = self._plans.by_kind
        names: Any = {"order": watch.tracker.order, "layers": {each: watch.layers(each)[0] for each in _GROUPINGS}}
        if self._learner is not None:
            gradients = measured.collector.gradients
            reasons = {
                key: None if each.statistics.moments is not None else each.reason for key, each in gradients.items()
            }
            plans[self._sites] = self._learner.plan(reasons=reasons, **names)
        if self.normalization_learner is not None:
            seen = [row.normalization for row in measured.normalizations.values()]
            plans[self._normalizations] = self.normalization_learner.plan(seen, **names)
        self.forget_learners()

    def refuse(self, plan: SitePlan | NormalizationPlan) -> None:
        """Use a plan no more, and make none in its place."""
        if self._plans is not None:
            kind = self._normalizations if isinstance(plan, NormalizationPlan) else self._sites
            self._plans.by_kind[kind] = None

    def forget_learners(self) -> None:
        """Make no plan of what was followed."""
        self._learner = self.normalization_learner = None
