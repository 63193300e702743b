"""The probes: armed around the passes of a measured step, they return its rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from ics import schema
from ics.errors import MeasurementWarning, UsageError, unknown_name
from ics.probes.counted_passes import BackwardPasses, ForwardPasses
from ics.probes.following.recompute import Recomputation
from ics.probes.following.site_rows import GradientHooks, MeasuringObserver, SiteColumns, SitesByMode, Wanted
from ics.probes.following.site_statistics import Collector
from ics.probes.hooks import Watch
from ics.probes.normalization.plan import NormalizationLearner, NormalizationPlan
from ics.probes.normalization.planned import PlannedNormalizations
from ics.probes.normalization.rows import normalization_block
from ics.probes.planned.passes import PlannedSites
from ics.probes.planned.plan import SitePlan
from ics.probes.planned.plan_cache import Plans, ProbePlans
from ics.probes.structure.grouping import Grouping, declared_layers, layer_numbers
from ics.probes.structure.selection import Selection, select_layers
from ics.records import Block, Layer


class Probes:
    """Measure the forward and backward passes of a model and change nothing.

    Armed as a context manager, around the passes of one step; `blocks` then returns the rows. Several forward passes
    while armed (gradient accumulation) are merged: a pass begins where the model is called, or where a part of it is
    that was already called from outside the model. An evaluation beside the training does not count, nor does a
    backward pass that fills no `.grad` of trained parameters (`ics.probes.counted_passes`). Nothing is copied to the
    host.

    Args:
        model: the model that is called, wrapped or not.
        activations: measure the sites' values: table `activations`.
        gradients: measure dL/d(site): rows of kind "site" of the table `gradients`.
        normalization: measure normalisation layers: table `normalization`.
        sites: which sites, of `ics.schema.SITES`.
        layers: whose rows, as for `select_layers`; predicates are asked about every module of the model by itself.
        histogram: whether to count histograms.
        per_channel: whether to keep the channels' columns.
        gradient_options: what of `sites`, `histogram` and `per_channel` is different for gradients.
        normalization_per_channel: whether `normalization` has them; default as `per_channel`.
        loss_scale: what the loss is multiplied by for the backward pass (`GradScaler.get_scale()`); gradients of
            sites are divided by it.
        plans: what earlier probes of this model learned, and where these write down what they learn: a pass that is
            known costs a fraction in Python. Without it every pass is followed from scratch.

    Cost: one pass over each measured tensor in the forward pass and one over its gradient in the backward pass.

    Raises:
        SelectionError: a site or layer that is not there.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> probes = Probes(model, activations=True, gradients=True, normalization=False)
        >>> with probes:
        ...     model(torch.ones(4, 2)).sum().backward()
        >>> activations, gradients = probes.blocks()
        >>> activations.columns["site"]
        ['input', 'preactivation', 'activation']
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        activations: bool,
        gradients: bool,
        normalization: bool,
        sites: Sequence[str] = schema.SITES,
        layers: Selection = None,
        histogram: bool = True,
        per_channel: bool = True,
        gradient_options: Mapping[str, Any] | None = None,
        normalization_per_channel: bool | None = None,
        loss_scale: float | Tensor | None = None,
        plans: Plans | None = None,
    ) -> None:
        options = {"sites": sites, "histogram": histogram, "per_channel": per_channel}
        values, of_gradients = _columns(options), _columns({**options, **(gradient_options or {})})
        chosen = None if layers is None else {layer.name for layer in select_layers(declared_layers(model), layers)}
        self._model = model
        self._wanted = Wanted(
            values if activations else None,
            of_gradients if gradients and of_gradients.sites else None,
            normalization,
            None if chosen is None else frozenset(chosen),
        )
        self._normalization_per_channel = (
            per_channel if normalization_per_channel is None else normalization_per_channel
        )
        self._loss_scale = loss_scale
        self._collector_options: dict[str, Any] = {
            "histogram": values.histogram,
            "per_channel": values.per_channel,
            "gradient_histogram": of_gradients.histogram,
            "gradient_per_channel": of_gradients.per_channel,
            "loss_scale": loss_scale,
        }
        self._plans = ProbePlans(plans, self._wanted)
        self._armed = False
        self._forget()

    def _forget(self) -> None:
        """Forget what was seen while armed last."""
        self._backward = BackwardPasses(self._model.parameters)
        self._measured = SitesByMode(partial(Collector, **self._collector_options), ForwardPasses(), self._backward)
        self._watch: Watch | None = None
        self._planned: PlannedSites | None = None
        self._normalizations: PlannedNormalizations | None = None
        self._plans.forget_learners()

    def __enter__(self) -> Probes:
        if self._armed:
            raise UsageError("probes are expected to be armed once at a time, got a second `with`; make other Probes")
        self._armed = True
        self._forget()
        followed, theorem, plan = self._wanted, self._plans.of_normalizations(), self._plans.of_sites()
        if theorem is not None:
            followed = replace(self._wanted, normalization=False)
            self._normalizations = PlannedNormalizations(
                theorem,
                self._backward,
                per_channel=self._normalization_per_channel,
                loss_scale=self._loss_scale,
            )
        # The pass is followed where the sites have no plan, or the normalisations have none: one following serves both.
        if plan is not None and not followed.normalization:
            self._planned = PlannedSites(plan, followed, self._backward, loss_scale=self._loss_scale)
        elif self._plans.measures_sites or self._normalizations is None:
            self._follow(followed)
        for each in self._attached:
            each.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._armed = False
        attached = self._attached
        for each in attached:
            each.detach()
        watched = self._watch is not None and bool(self._watch.tracker.order)
        seen = watched or any(each.seen or each.lost for each in (self._planned, self._normalizations) if each)
        if kind is None and not seen and not any(getattr(each, "failure", None) for each in attached):
            warnings.warn(
                "the probes saw no layer, normalisation or activation: no such module of the model was called in this "
                "thread while they were armed; call the model that they were given, uncompiled, inside the block",
                MeasurementWarning,
                stacklevel=2,
            )

    def blocks(self, layers: Sequence[Layer] | None = None) -> list[Block]:
        """Return the rows of each instrument, tensors still on the device.

        Rows of a layer have its number; rows that belong to none (an activation of a sum, say) have the number of the
        layer that ran before them, so that a name has one number in every table. The bias gradient in front of a
        normalisation is read from `.grad` now. An error that measuring met inside the user's passes, where it must
        not stop a training, is raised here.

        Args:
            layers: the layers that give the numbers; default those of `layers()`.
        """
        for each in (self._watch, self._planned, self._normalizations):
            if each is not None and each.failure is not None:
                raise each.failure
        found = []
        if self._planned is not None:
            self._warn_if_lost(self._planned)
            found += self._planned.blocks(_order(self._planned.plan, layers))
        if self._watch is not None:
            found += self._followed_blocks(self._watch, layers)
        if self._normalizations is not None:
            self._warn_if_lost(self._normalizations)
            found.append(self._normalizations.block(_order(self._normalizations.plan, layers)))
        return found

    def layers(self, grouping: Grouping = "paper") -> tuple[Layer, ...]:
        """Return the layers in the order of execution, as seen while armed last."""
        if self._watch is not None:
            return self._watch.layers(grouping)[0]
        planned = self._planned or self._normalizations
        return () if planned is None else planned.plan.layers[grouping]

    @property
    def notes(self) -> list[str]:
        """Sentences on what was seen and not counted while armed last."""
        planned = [each for each in (self._planned, self._normalizations) if each is not None]
        notes = [self._measured.forward.note, *(each.forward.note for each in planned), self._backward.note]
        return [note for note in dict.fromkeys(notes) if note is not None]

    @property
    def _attached(self) -> list[Watch | PlannedSites | PlannedNormalizations | NormalizationLearner]:
        own = (self._watch, self._planned, self._normalizations, self._plans.normalization_learner)
        return [each for each in own if each is not None]

    def _follow(self, wanted: Wanted) -> None:
        """Follow the pass from scratch, and have plans of it made, if there can be any."""
        learner = self._plans.learn(wanted, self._model, self._measured.forward)

        def make_observer(hooks: GradientHooks, recomputation: Recomputation | None) -> MeasuringObserver:
            return MeasuringObserver(wanted, self._measured, hooks, recomputation, learner)

        step = self._measured
        self._watch = Watch(self._model, make_observer, pending=step.pending, learner=learner, forward=step.forward)

    def _followed_blocks(self, watch: Watch, layers: Sequence[Layer] | None) -> list[Block]:
        order = layer_numbers(watch.tracker.order, self.layers() if layers is None else layers)
        measured, found = self._measured.counted(), []
        self._plans.made_of(watch, measured)
        measured.void_gradients()
        collector = measured.collector
        if self._wanted.activations:
            found.append(collector.activations_block(order))
        if self._wanted.gradients:
            found.append(collector.gradients_block(order))
        if self._wanted.normalization and self._normalizations is None:
            rows = list(measured.normalizations.values())
            for row in rows:
                row.per_channel = self._normalization_per_channel
            found.append(normalization_block(rows, order))
        return found

    def _warn_if_lost(self, planned: PlannedSites | PlannedNormalizations) -> None:
        if planned.lost:
            self._plans.refuse(planned.plan)
            warnings.warn(
                "the model did not call its modules as it did at the steps before: this step's statistics of sites are "
                "null, and from the next measured step on every pass is followed in full",
                MeasurementWarning,
                stacklevel=3,
            )


def _order(plan: SitePlan | NormalizationPlan, layers: Sequence[Layer] | None) -> Mapping[str, int]:
    return layer_numbers(plan.order, plan.layers["paper"] if layers is None else layers)


def _columns(options: Mapping[str, Any]) -> SiteColumns:
    """Check the names of sites."""
    given = options["sites"]
    sites = (given,) if isinstance(given, str) else given
    for site in sites:
        if site not in schema.SITES:
            raise unknown_name("site", site, schema.SITES)
    return SiteColumns(frozenset(sites), options["histogram"], options["per_channel"])
