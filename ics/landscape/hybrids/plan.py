"""Which layers stand at W(t+1) in which pass: planned once per transition, and followed by every way to G'.

G'_i is the gradient of layer i where the layers executed before it have been updated and the others have not:

    layer      1     2     3     4
    for G'_1   t     t     t     t
    for G'_2   t+1   t     t     t
    for G'_3   t+1   t+1   t     t
    for G'_4   t+1   t+1   t+1   t

Each row is a hybrid of W(t) and W(t+1). `full_passes`, `prefix_reuse`, `batched_passes` and `staircase` evaluate the
same rows, and differ only in what they share between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ics.landscape.transition import Transition
from ics.records import Layer


@dataclass(frozen=True, eq=False)
class Hybrid:
    """W' of layer i: all layers executed before it at t+1, all others, layer i's own parameters included, at t.

    Attributes:
        layer: layer i.
        wanted: its trained parameters.
        parameters: W', a value for every parameter.
        updated: names of the parameters that are at t+1.
        unlike_later: the parameters that this hybrid does not share with those of all later layers: layer i's, and
            those of later layers that moved. Until a pass first reads one of them, it is the same for all of these
            hybrids, and the same as that of the updated net.
        moved: whether a bit of anything before layer i changed; if not, G' is G by definition.
    """

    layer: Layer
    wanted: tuple[str, ...]
    parameters: Mapping[str, Tensor]
    updated: tuple[str, ...]
    unlike_later: tuple[str, ...]
    moved: bool

    @property
    def needs_pass(self) -> bool:
        """Whether G' has to be computed: something before the layer moved, and the layer is trained."""
        return self.moved and bool(self.wanted)


@dataclass(frozen=True, eq=False)
class HybridPlan:
    """The hybrids of all selected layers.

    Attributes:
        transition: W(t) to W(t+1) and the loss.
        layers: all layers of the model, in the order of execution.
        hybrids: one for each selected layer, in the order of execution.
    """

    transition: Transition
    layers: tuple[Layer, ...]
    hybrids: tuple[Hybrid, ...]

    @cached_property
    def to_run(self) -> tuple[Hybrid, ...]:
        """The hybrids that need a pass."""
        return tuple(hybrid for hybrid in self.hybrids if hybrid.needs_pass)

    def only(self, names: Collection[str]) -> HybridPlan:
        """Return the plan for fewer layers: a hybrid is the same, whichever other layers are selected."""
        return dataclasses.replace(self, hybrids=tuple(each for each in self.hybrids if each.layer.name in names))

    def chunks(self, size: int | None) -> Iterator[Sequence[Hybrid]]:
        """Yield the hybrids that need a pass, `size` consecutive ones at a time; None for all at once."""
        size = size or max(len(self.to_run), 1)
        for start in range(0, len(self.to_run), size):
            yield self.to_run[start : start + size]


def plan_hybrids(transition: Transition, *, layers: Sequence[Layer], selected: Collection[str]) -> HybridPlan:
    """Plan the hybrid of each selected layer.

    A parameter that several layers share moves with the first of them.

    Args:
        transition: W(t) to W(t+1) and the loss.
        layers: all layers, in the order of execution.
        selected: names of the layers whose G' is wanted.

    Cost: no pass; one comparison of W(t) with W(t+1).

    Example:
        >>> from torch import nn
        >>> from ics.landscape import Objective, make_transition
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
        >>> objective = Objective(model, lambda model, x: model(x).sum(), torch.ones(1, 1))
        >>> before = objective.parameters
        >>> step = make_transition(objective, before=before, after={"1.bias": before["1.bias"] + 1})
        >>> layers = [Layer(n, i, "Linear", (n,), (), (f"{n}.weight", f"{n}.bias"), (), 0) for i, n in enumerate("012")]
        >>> plan = plan_hybrids(step, layers=layers, selected="012")
        >>> [(hybrid.layer.name, hybrid.updated) for hybrid in plan.to_run]   # before 0 and 1 nothing moved
        [('2', ('1.bias',))]
    """
    parameters, moved = dict(transition.before), False
    updated: dict[str, None] = {}
    still_to_move = {name for name in parameters if not torch.equal(parameters[name], transition.after[name])}
    hybrids: list[Hybrid] = []
    for layer in layers:
        if layer.name in selected:
            wanted = tuple(name for name in layer.parameters if name in transition.gradients)
            unlike_later = tuple(dict.fromkeys((*layer.parameters, *still_to_move)))
            hybrids.append(Hybrid(layer, wanted, dict(parameters), tuple(updated), unlike_later, moved))
        moved = moved or not still_to_move.isdisjoint(layer.parameters)
        still_to_move.difference_update(layer.parameters)
        parameters.update({name: transition.after[name] for name in layer.parameters})
        updated |= {name: None for name in layer.parameters if transition.after[name] is not transition.before[name]}
    return HybridPlan(transition, tuple(layers), tuple(hybrids))


def moved_names(transition: Transition, layer: Layer) -> tuple[str, ...]:
    """Return the parameters of a layer of which the update changed a bit."""
    before, after = transition.before, transition.after
    return tuple(name for name in layer.parameters if not torch.equal(before[name], after[name]))


def moved_alone(transition: Transition, layer: Layer) -> dict[str, Tensor] | None:
    """Return W with only this layer at t+1, a value for every parameter; None if the layer did not move."""
    moved = moved_names(transition, layer)
    return {**transition.before, **{name: transition.after[name] for name in moved}} if moved else None
