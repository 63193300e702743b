"""Takes the sites that a tracker finds: reduces tensors at once, and follows them for their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ics.probes.counted_passes import MIXED_PARTS, NOT_REACHED, TWICE, BackwardPasses, CountedGradients, ForwardPasses
from ics.probes.following.recompute import Pending, Recomputation
from ics.probes.following.site_statistics import Collector
from ics.probes.following.tracker import Normalization, Site
from ics.probes.normalization.rows import NormalizationRow, is_torch_backward, statistics_of
from ics.probes.normalization.terms import BatchStatistics, broadcast_weight, has_known_formula
from ics.probes.planned.learner import Learner
from ics.probes.structure.names import kind_of
from ics.probes.structure.tensors import undisturbed

NodeGradients = Sequence[Tensor | None]
"""What a backward node is handed, or sends back to its inputs."""

_THEOREM = "theorem"


class GradientHooks(Protocol):
    """Registers hooks on tensors and backward nodes, and keeps their handles."""

    def on_gradient(self, tensor: Tensor, take: Callable[[Tensor], None]) -> None:
        """Call `take` with the gradient of a tensor."""

    def on_node(self, tensor: Tensor, take: Callable[[NodeGradients], None]) -> None:
        """Call `take` with what the function that made a tensor sends back to its inputs."""


@dataclass(frozen=True, slots=True)
class SiteColumns:
    """Which sites a table has, and which of its columns."""

    sites: frozenset[str]
    histogram: bool
    per_channel: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured: of the values and of the gradients of sites, None for nothing; `layers` None are all."""

    activations: SiteColumns | None
    gradients: SiteColumns | None
    normalization: bool
    layers: frozenset[str] | None

    def layer(self, name: str) -> bool:
        """Return whether a layer is wanted."""
        return self.layers is None or name in self.layers

    def value(self, site: Site) -> bool:
        """Return whether the values of a site are wanted."""
        return self.activations is not None and site.site in self.activations.sites and self.layer(site.layer)

    def gradient(self, site: Site) -> bool:
        """Return whether the gradient of a site is wanted."""
        return self.gradients is not None and site.site in self.gradients.sites and self.layer(site.layer)


@dataclass
class MeasuredSites:
    """What an armed step has measured so far."""

    collector: Collector
    backward: BackwardPasses
    normalizations: dict[tuple[str, int], NormalizationRow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counted = CountedGradients(self.backward, self._forget_gradients)

    def void_gradients(self) -> None:
        """Make those rows null whose gradient is not known, though backward passes reached them."""
        everywhere, spoiled = self.backward.reason, frozenset(self.counted.spoiled)
        if everywhere is None and not spoiled:
            return
        self.collector.void_gradients(lambda key: everywhere or (TWICE if key in spoiled else None))
        for (layer, call), row in self.normalizations.items():
            row.void_gradients(everywhere or (TWICE if (layer, call, _THEOREM) in spoiled else None))

    def add_part(self, other: MeasuredSites, reason: str | None) -> None:
        """Take over the rows of another part of the same passes, null if there is a reason why.

        Args:
            other: what was measured of that part, which ran before.
            reason: why its values are not known.
        """
        for name in ("values", "gradients"):
            own, rows = getattr(self.collector, name), getattr(other.collector, name)
            added = {key: record if reason is None else record.voided(reason) for key, record in rows.items()}
            setattr(self.collector, name, {**{key: row for key, row in added.items() if key not in own}, **own})
        for key, row in other.normalizations.items():
            if key not in self.normalizations:
                self.normalizations[key] = row if reason is None else NormalizationRow(row.normalization, reason=reason)

    def _forget_gradients(self) -> None:
        self.collector.forget_gradients()
        for row in self.normalizations.values():
            row.forget_gradients()


@dataclass
class SitesByMode:
    """What an armed step has measured, by the mode of the forward pass: at its end the best counts.

    Args:
        make_collector: makes what takes statistics.
        forward: the forward passes of the step.
        backward: its backward passes.
    """

    make_collector: Callable[[], Collector]
    forward: ForwardPasses
    backward: BackwardPasses
    pending: Pending = field(default_factory=dict)
    _by_mode: dict[int, MeasuredSites] = field(default_factory=dict)

    @property
    def now(self) -> MeasuredSites:
        """What takes the rows of the pass that runs."""
        return self.of(self.forward.mode)

    def of(self, mode: int) -> MeasuredSites:
        """Return what takes the rows of passes in a mode."""
        found = self._by_mode.get(mode)
        if found is None:
            found = self._by_mode[mode] = MeasuredSites(self.make_collector(), self.backward)
        return found

    def counted(self) -> MeasuredSites:
        """Return what counts, once the step is over."""
        best = self.of(self.forward.best)
        for mode in sorted(self.forward.continued & self._by_mode.keys(), reverse=True):
            if mode < self.forward.best:  # a frozen part that ran before a trained one, say
                best.add_part(self._by_mode.pop(mode), MIXED_PARTS if mode in self.forward.modes else None)
        return best


@dataclass
class MeasuringObserver:
    """Measures the sites of forward passes, or, given a recomputation, only the gradients that the passes lacked."""

    wanted: Wanted
    step: SitesByMode
    hooks: GradientHooks
    recomputation: Recomputation | None = None
    learner: Learner | None = None

    @property
    def measured(self) -> MeasuredSites:
        """What takes the rows; of a segment that is run again they are those of the passes that count."""
        return self.step.now if self.recomputation is None else self.step.of(self.step.forward.best)

    def site(self, site: Site, tensor: Tensor) -> None:
        """Reduce the tensor now: an in-place activation may overwrite it next."""
        takes, follows = self._takes_value(site), self.wanted.gradient(site)
        if self.learner is not None and (takes or follows):
            self.learner.handed(site, tensor)
        if takes:
            with undisturbed(tensor):
                self.measured.collector.add_value(site, tensor)
        if follows:
            self._follow(site, tensor)

    def unmeasured(self, site: Site, reason: str) -> None:
        """Make null rows of the site, with the reason; a plan has none of that kind."""
        if self.recomputation is not None:
            return
        if self.wanted.value(site):
            self.measured.collector.expect_value(site, reason)
        if self.wanted.gradient(site):
            self.measured.collector.expect_gradient(site, reason)
        if self.learner is not None:
            self.learner.refuse("a layer computes with complex numbers")

    def withdraw(self, site: Site) -> None:
        """Take back a site that turned out to be none."""
        self.measured.collector.withdraw(site)
        if self.learner is not None:
            self.learner.refuse("a module with parameters of its own holds layers")

    def normalization(self, normalization: Normalization, x: Tensor, output: Tensor) -> None:
        """Measure x-hat, the output, and the terms of Theorem 4.1."""
        if not self.wanted.layer(normalization.layer):
            return
        self._normalized(normalization, x, output)
        self.site(normalization.site("scaled"), output)
        if self.wanted.normalization:
            self._theorem(normalization, x, output)

    def _takes_value(self, site: Site) -> bool:
        return self.recomputation is None and self.wanted.value(site)

    def _normalized(self, normalization: Normalization, x: Tensor, output: Tensor) -> None:
        site, module = normalization.site("normalized"), normalization.module
        takes, follows = self._takes_value(site), self.wanted.gradient(site)
        if not takes and not follows:
            return
        if self.learner is not None:
            self.learner.handed(site, output, normalized=True)
        if not has_known_formula(module):
            if self.learner is not None:
                self.learner.refuse("x-hat is not known")
            reason = f"x-hat of {kind_of(module)} is not known: it is not torch's own normalisation"
            if takes:
                self.measured.collector.expect_value(site, reason)
            if follows:
                self.measured.collector.expect_gradient(site, reason)
            return
        if takes:
            with undisturbed(x):
                self.measured.collector.add_normalized(site, module, x)
        if follows:  # dL/d(x-hat) = gamma dL/d(output)
            self._follow(site, output, scale=broadcast_weight(module, output))

    def _follow(self, site: Site, tensor: Tensor, *, scale: Tensor | None = None) -> None:
        if self._note(site, tensor):
            measured = self.measured
            self.hooks.on_gradient(
                tensor, partial(self._take_gradient, measured, site, scale, measured.counted.number())
            )
        if self.recomputation is None:
            self._expect(site, tensor)

    def _expect(self, site: Site, tensor: Tensor) -> None:
        if not torch.is_grad_enabled():
            reason = "it was made without a graph, and no backward pass recomputed it in a module that was seen"
        elif not tensor.requires_grad:
            reason = "the tensor needs no gradient"
        else:
            reason = NOT_REACHED
        self.measured.collector.expect_gradient(site, reason)

    def _note(self, site: Site, tensor: Tensor) -> bool:
        """Return whether a tensor has a gradient; if not, it may get one when a checkpointed segment is recomputed."""
        graded = torch.is_grad_enabled() and tensor.requires_grad
        # The call of the forward pass had no graph. Its repetition has one, and its gradient is that of the call.
        if self.recomputation is not None:
            self.recomputation.observe(site, graded=graded)
        elif not torch.is_grad_enabled():
            if self.learner is not None:
                self.learner.refuse("it runs without a graph")
            self.step.backward.ran_without_graph = True
            self.step.pending.setdefault((site.layer, site.site), []).append(site.call)
        return graded

    def _take_gradient(
        self, measured: MeasuredSites, site: Site, scale: Tensor | None, number: int, gradient: Tensor
    ) -> None:
        found = self._counted(measured, site, number)
        if found is not None:
            with undisturbed(gradient):
                scaled = gradient if scale is None else gradient * scale
                measured.collector.add_gradient(found, scaled)

    def _theorem(self, normalization: Normalization, x: Tensor, output: Tensor) -> None:
        site, measured = normalization.site(_THEOREM), self.measured
        graded, wants_graph = self._note(site, output), torch.is_grad_enabled()
        with undisturbed(x):
            batch = statistics_of(normalization.module, x)
        if self.recomputation is None:
            key = (normalization.layer, normalization.call)
            row = measured.normalizations.setdefault(key, NormalizationRow(normalization))
            with undisturbed(x):
                row.add_forward(batch, needs_gradient=graded or not wants_graph)
        if graded:
            # A view, so that the graph is not kept alive through it.
            kept = x.detach()  # torch's BatchNorm keeps its input for the backward pass too: no memory is added
            number = measured.counted.number
            self.hooks.on_gradient(output, partial(self._take_output_gradient, measured, site, kept, batch, number()))
            if x.requires_grad and output.grad_fn is not None and is_torch_backward(output.grad_fn.name()):
                self.hooks.on_node(output, partial(self._take_input_gradient, measured, site, number()))

    def _take_output_gradient(
        self,
        measured: MeasuredSites,
        site: Site,
        x: Tensor,
        batch: BatchStatistics | None,
        number: int,
        gradient: Tensor,
    ) -> None:
        row = self._row(measured, site, number)
        if row is not None:
            with undisturbed(gradient):
                row.add_output_gradient(measured.collector.unscaled(gradient), x, batch)

    def _take_input_gradient(self, measured: MeasuredSites, site: Site, number: int, gradients: NodeGradients) -> None:
        row, gradient = self._row(measured, site, number), gradients[0]
        if row is not None and gradient is not None:
            with undisturbed(gradient):
                row.add_input_gradient(measured.collector.unscaled(gradient))

    def _row(self, measured: MeasuredSites, site: Site, number: int) -> NormalizationRow | None:
        found = self._counted(measured, site, number)
        return None if found is None else measured.normalizations.get((found.layer, found.call))

    def _counted(self, measured: MeasuredSites, site: Site, number: int) -> Site | None:
        """Return the site of the forward pass whose gradient has come; None if this backward pass does not count."""
        found = site if self.recomputation is None else self.recomputation.in_forward(site)
        if found is None:
            return None
        recomputed = self.recomputation is not None
        return found if measured.counted.takes(number, found.key, recomputed=recomputed) else None
