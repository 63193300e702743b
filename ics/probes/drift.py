"""Same-batch drift: the distributions at every site of one pass, and their distances to those of another pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from ics import schema, stats
from ics.errors import MeasurementWarning, unknown_name
from ics.probes.following.site_statistics import make_block
from ics.probes.following.tracker import Normalization, Site
from ics.probes.hooks import Watch
from ics.probes.normalization.terms import has_known_formula, normalized
from ics.probes.structure.grouping import Grouping, declared_layers, layer_numbers
from ics.probes.structure.names import kind_of
from ics.probes.structure.selection import Selection, select_layers
from ics.probes.structure.tensors import undisturbed
from ics.records import Block
from ics.stats import Distribution

DISTANCES: Mapping[str, Callable[[Distribution, Distribution], Tensor]] = {
    "mean_shift": stats.mean_shift,
    "log_variance_ratio": stats.log_variance_ratio,
    "gaussian_kl": stats.gaussian_kl,
    "wasserstein_1": stats.wasserstein_1,
}
_NO_HALVES = "floor: there are no two samples along the first axis"

Key = tuple[str, int, str]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Halves:
    """The distributions of the two halves of a batch, along the first axis; an odd sample falls to the second."""

    first: Distribution
    second: Distribution


@dataclass(frozen=True, slots=True)
class SitesOfPass:
    """What one pass over a batch showed, by (layer, call, site).

    Attributes:
        order: layer names to their position in the order of execution.
        whole: distribution of all values at a site.
        halves: of the two halves of the batch; None where it cannot be halved.
        reasons: why a site has no distribution.
    """

    order: Mapping[str, int]
    whole: Mapping[Key, Distribution]
    halves: Mapping[Key, Halves | None]
    reasons: Mapping[Key, str]

    def without_halves(self) -> SitesOfPass:
        """Return what a reference needs to hold."""
        return replace(self, halves={})


def checked_sites(sites: str | Iterable[str]) -> frozenset[str]:
    """Return site names as a set; raises `SelectionError` for one that is not of `ics.schema.SITES`."""
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    for name in names:
        if name not in schema.SITES:
            raise unknown_name("site", name, schema.SITES)
    return frozenset(names)


def sites_of_pass(
    model: nn.Module,
    run: Callable[[], object],
    *,
    sites: str | Iterable[str] = schema.SITES,
    layers: Selection = None,
    grouping: Grouping = "paper",
    halves: bool = False,
) -> SitesOfPass:
    """Measure the distribution of every channel at every site while `run` calls the model.

    Where `run` calls the model several times, the values of a site are taken together.

    Args:
        model: the model that `run` calls, holding the parameters to be looked at.
        run: performs the pass. What it changes (buffers, random state) stays changed.
        sites: which sites, of `ics.schema.SITES`.
        layers: whose sites, as for `select_layers`.
        grouping: which modules make up a layer, as for `find_layers`; decides the layers' numbers.
        halves: whether to measure the halves of the batch too, for the floor.

    Cost: the pass, and two reads of each tensor (four with `halves`).

    Raises:
        SelectionError: a site or layer that is not there.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> list(sites_of_pass(model, lambda: model(torch.eye(2))).whole)
        [('0', 0, 'input'), ('0', 0, 'preactivation'), ('0', 0, 'activation')]
    """
    chosen = None if layers is None else {layer.name for layer in select_layers(declared_layers(model), layers)}
    observer = _DistributionObserver(checked_sites(sites), None if chosen is None else frozenset(chosen), halves)
    # A segment that a backward pass inside `run` recomputes has been seen before: what it shows is dropped.
    nothing = _DistributionObserver(frozenset(), None, False)
    watch = Watch(model, lambda _, again: observer if again is None else nothing)
    watch.attach()
    try:
        run()
    finally:
        watch.detach()
    if watch.failure is not None:
        raise watch.failure
    if not watch.tracker.order:
        warnings.warn(
            "the pass over the probe batch called no layer, normalisation or activation of the model; "
            "feed it to the model that is measured, in this thread",
            MeasurementWarning,
            stacklevel=2,
        )
    return observer.seen(layer_numbers(watch.tracker.order, watch.layers(grouping)[0]))


def drift_rows(now: SitesOfPass, then: SitesOfPass, *, reference: str, floor: SitesOfPass) -> list[Row]:
    """Return a row per site of `now` with its distances to `then`; see `drift_block`.

    Args:
        now: the pass that is compared.
        then: the reference, whose standard deviations are the unit.
        reference: what the reference is called.
        floor: the pass whose two halves make the floor.
    """
    rows = []
    for key in dict.fromkeys((*now.whole, *now.reasons)):
        layer, call, site = key
        row: Row = {"layer": layer, "layer_index": now.order[layer], "call": call, "site": site, "reference": reference}
        cells, reason = _distances(now.whole.get(key), then.whole.get(key))
        reason = now.reasons.get(key) or then.reasons.get(key) or reason
        pair = floor.halves.get(key)
        floors, why = (dict.fromkeys(DISTANCES), _NO_HALVES) if pair is None else _distances(pair.first, pair.second)
        reasons = [reason] if key in now.reasons else [reason, why]
        row |= cells | {f"floor_{name}": value for name, value in floors.items()}
        rows.append(row | {"null_reason": "; ".join(filter(None, reasons)) or None})
    return rows


def drift_block(rows: list[Row]) -> Block:
    """Return rows of the table `drift`, each number the mean over the channels for which it is defined.

    Where it is defined for none, or a value of the site is not finite, it is NaN on the device; the host turns that
    into null with its reason.
    """
    return make_block("drift", rows)


@dataclass
class _DistributionObserver:
    """Reduces the tensors of sites as they come; takes part in nothing else."""

    sites: frozenset[str]
    layers: frozenset[str] | None
    with_halves: bool
    whole: dict[Key, list[Distribution]] = field(default_factory=dict)
    halves: dict[Key, list[Halves | None]] = field(default_factory=dict)
    reasons: dict[Key, str] = field(default_factory=dict)

    def site(self, site: Site, tensor: Tensor) -> None:
        """Reduce the tensor now: an in-place activation may overwrite it next."""
        if not self._wanted(site):
            return
        with undisturbed(tensor):
            values, axis = (tensor, site.axis % tensor.ndim) if tensor.ndim else (tensor.reshape(1), 0)
            self.whole.setdefault(site.key, []).append(stats.distribution(values, channel_axis=axis))
            if self.with_halves:
                self.halves.setdefault(site.key, []).append(_halved(values, axis))

    def unmeasured(self, site: Site, reason: str) -> None:
        """Take nothing."""

    def withdraw(self, site: Site) -> None:
        """Take back a site that turned out to be none."""
        self.whole.pop(site.key, None)
        self.halves.pop(site.key, None)

    def normalization(self, normalization: Normalization, x: Tensor, output: Tensor) -> None:
        """Take x-hat and the output of a normalisation."""
        site, module = normalization.site("normalized"), normalization.module
        if self._wanted(site):
            if has_known_formula(module):
                with undisturbed(x):
                    self.site(site, normalized(module, x))
            else:
                self.reasons[site.key] = f"x-hat of {kind_of(module)} is not known: it is not torch's own normalisation"
        self.site(normalization.site("scaled"), output)

    def seen(self, order: Mapping[str, int]) -> SitesOfPass:
        """Return everything, several occurrences of a site taken together."""
        whole, reasons = {}, dict(self.reasons)
        for key, parts in self.whole.items():
            if len({part.sample.shape[0] for part in parts}) > 1:
                reasons[key] = "the number of channels differs between the calls of the model"
            else:
                whole[key] = stats.union(parts)
        halves = {key: _together(parts) for key, parts in self.halves.items() if key in whole}
        return SitesOfPass(dict(order), whole, halves, reasons)

    def _wanted(self, site: Site) -> bool:
        return site.site in self.sites and (self.layers is None or site.layer in self.layers)


def _halved(values: Tensor, axis: int) -> Halves | None:
    """Return both halves along the first axis; None where that counts channels or has fewer than two entries."""
    middle = values.shape[0] // 2
    if axis == 0 or middle == 0:
        return None
    first, second = (stats.distribution(part, channel_axis=axis) for part in (values[:middle], values[middle:]))
    return Halves(first, second)


def _together(parts: Sequence[Halves | None]) -> Halves | None:
    pairs = [pair for pair in parts if pair is not None]
    if len(pairs) < len(parts):
        return None
    return Halves(stats.union([pair.first for pair in pairs]), stats.union([pair.second for pair in pairs]))


def _distances(now: Distribution | None, then: Distribution | None) -> tuple[dict[str, Tensor | None], str | None]:
    """Return each distance as a mean over channels, and why there is none."""
    if now is None or then is None:
        return dict.fromkeys(DISTANCES), "the site did not occur in both passes"
    if now.sample.shape[0] != then.sample.shape[0]:
        return dict.fromkeys(DISTANCES), "the number of channels differs between the passes"
    # The mean of a distance that is NaN because a value is not finite must be NaN too, not that of the other channels.
    finite = (now.moments.nonfinite_count.sum() + then.moments.nonfinite_count.sum()) == 0
    means = {name: measure(now, then).nanmean() for name, measure in DISTANCES.items()}
    return {name: mean.where(finite, float("nan")) for name, mean in means.items()}, None
