"""Calls a user's function on the tensors of sites while training's own pass runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ics import stats
from ics.probes.counted_passes import NO_GRAPH, ForwardPasses
from ics.probes.following.recompute import Recomputation
from ics.probes.following.site_rows import GradientHooks
from ics.probes.following.tracker import Normalization, Site
from ics.probes.hooks import Watch
from ics.probes.normalization.terms import has_known_formula, normalized
from ics.probes.structure.grouping import declared_layers, layer_numbers
from ics.probes.structure.names import kind_of
from ics.probes.structure.selection import Selection, select_layers
from ics.probes.structure.tensors import undisturbed, version_of
from ics.records import Layer

SiteFunction = Callable[[Tensor], Any]


@dataclass
class SiteValue:
    """The result of the function at one site in one forward pass.

    Attributes:
        site: the site.
        forward: forward passes of the step before this one.
        value: a tensor, () or (C,); None if there was nothing to call the function on.
        reason: why there was nothing.
        mode: of the pass.
    """

    site: Site
    forward: int
    value: Tensor | None
    reason: str | None = None
    mode: int = NO_GRAPH


@dataclass
class SiteValues:
    """The values of one step, in the order of the passes."""

    function: SiteFunction
    per_channel: bool
    sites: frozenset[str]
    layers: frozenset[str] | None
    tried: set[tuple[str, str]]
    rows: dict[tuple[int, tuple[str, int, str]], SiteValue] = field(default_factory=dict)
    forward: int = 0
    passes: ForwardPasses = field(default_factory=ForwardPasses)

    def site(self, site: Site, tensor: Tensor) -> None:
        """Call the function now: an in-place activation may overwrite the tensor next."""
        if self._wants(site):
            with undisturbed(tensor):
                self._add(site, self._value(site, tensor.detach()))

    def unmeasured(self, site: Site, reason: str) -> None:
        """Take nothing."""

    def withdraw(self, site: Site) -> None:
        """Remove the row of a site that turned out not to be one."""
        self.rows.pop((self.forward, site.key), None)

    def normalization(self, normalization: Normalization, x: Tensor, output: Tensor) -> None:
        """Call the function on x-hat and on the output of a normalisation."""
        site = normalization.site("normalized")
        if self._wants(site):
            if has_known_formula(normalization.module):
                with undisturbed(x):
                    self._add(site, self._value(site, normalized(normalization.module, x.detach())))
            else:
                kind = kind_of(normalization.module)
                self._add(site, None, f"x-hat of {kind} is not known: it is not torch's own normalisation")
        self.site(normalization.site("scaled"), output)

    def _wants(self, site: Site) -> bool:
        return site.site in self.sites and (self.layers is None or site.layer in self.layers)

    def _add(self, site: Site, value: Tensor | None, reason: str | None = None) -> None:
        if (self.forward, site.key) in self.rows:  # unique within a pass, so another one has begun
            self.forward += 1
        self.rows[self.forward, site.key] = SiteValue(site, self.forward, value, reason, self.passes.mode)

    def _value(self, site: Site, tensor: Tensor) -> Tensor:
        given = stats.as_channels(tensor, channel_axis=site.axis) if self.per_channel else tensor
        state = _random_state(tensor)
        # Whether the function writes to what it is given is tried out on a copy, the first time at each site:
        # a single write to the tensor itself would change the training.
        first = (site.layer, site.site) not in self.tried
        handed = given.clone() if first else given
        version = version_of(handed)
        try:
            value = self.function(handed)
        finally:
            _restore(tensor, state)
        # A version counts writes, but not those through `.data` or numpy; the copy shows these too, at the first step.
        written = version_of(handed) != version or (first and not _same(handed, given))
        if written:
            raise ValueError(
                f"it writes to the tensor of {site.layer} at {site.site}; expected a function that only reads"
            )
        self.tried.add((site.layer, site.site))
        wanted = (given.shape[1],) if self.per_channel else ()
        if not isinstance(value, Tensor):
            raise TypeError(
                f"expected a tensor of shape {wanted}, got {type(value).__name__}, at {site.layer} {site.site}"
            )
        if tuple(value.shape) != wanted or value.is_complex():
            shape = f"{value.dtype} of shape {tuple(value.shape)}"
            raise ValueError(f"expected a real tensor of shape {wanted}, got {shape}, at {site.layer} {site.site}")
        # A view of the tensor would be overwritten with it.
        shares = value.untyped_storage().data_ptr() == handed.untyped_storage().data_ptr()
        return value.detach().clone() if shares else value.detach()


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same values, NaN equal to NaN."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _random_state(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the state of the generators that a function of the tensor may draw from, without waiting for a device."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(tensor.device) if tensor.is_cuda else None


def _restore(tensor: Tensor, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], tensor.device)


class SiteFunctions:
    """Calls a function on the tensor of every wanted site of training's passes, and changes nothing.

    Args:
        model: the model that is called.
        function: tensor to a tensor of one number; given channels, of one number per channel.
        per_channel: whether it is given the tensor as (values, channels) and returns a number per channel.
        sites: which sites, of `ics.schema.SITES`.
        layers: layers to which the sites belong, as for `select_layers`.
        tried: sites at which the function is known to only read; kept from step to step.

    Cost: the function at every wanted site, and some Python per module call, as the pass is followed in full.
    """

    def __init__(
        self,
        model: nn.Module,
        function: SiteFunction,
        *,
        per_channel: bool,
        sites: frozenset[str],
        layers: Selection,
        tried: set[tuple[str, str]],
    ) -> None:
        chosen = None if layers is None else {layer.name for layer in select_layers(declared_layers(model), layers)}
        self.values = SiteValues(function, per_channel, sites, None if chosen is None else frozenset(chosen), tried)
        self.watch = Watch(model, self._sink, forward=self.values.passes)

    @property
    def rows(self) -> list[SiteValue]:
        """What the passes gave that count, numbered anew; parts of one pass may have run in different modes."""
        passes = self.values.passes
        modes = {passes.best} | (passes.continued - passes.modes)
        rows = [row for row in self.values.rows.values() if row.mode in modes]
        numbers = {forward: number for number, forward in enumerate(dict.fromkeys(row.forward for row in rows))}
        return [replace(row, forward=numbers[row.forward]) for row in rows]

    def layer_numbers(self, layers: Sequence[Layer]) -> Mapping[str, int]:
        """Return the number of every name that has rows: that of its layer, or of the layer that ran before it."""
        return layer_numbers(self.watch.tracker.order, layers or self.watch.layers("paper")[0])

    def _sink(self, hooks: GradientHooks, recomputation: Recomputation | None) -> Any:
        return self.values if recomputation is None else _Nothing()


class _Nothing:
    """Ignores every tensor: what a checkpointed segment recomputes was already seen in the forward pass."""

    def site(self, site: Site, tensor: Tensor) -> None:
        """Take nothing."""

    def unmeasured(self, site: Site, reason: str) -> None:
        """Take nothing."""

    def withdraw(self, site: Site) -> None:
        """Take nothing."""

    def normalization(self, normalization: Normalization, x: Tensor, output: Tensor) -> None:
        """Take nothing."""
