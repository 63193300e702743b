"""G' of every layer, one full forward-backward pass each: obvious, and right for any model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ics.landscape.transition import Transition
from ics.records import Layer

Gradients = dict[str, Tensor | None]


@dataclass(frozen=True)
class Hybrid:
    """W' of layer i: all layers executed before it at t+1, all others, layer i's own parameters included, at t.

    Attributes:
        layer: layer i.
        wanted: its trained parameters.
        parameters: W'.
        own: the parameters that this hybrid does not share with those of all later layers: layer i's, and those of
            later layers that moved.
        moved: whether anything before layer i moved; if not, G' is G by definition.
    """

    layer: Layer
    wanted: tuple[str, ...]
    parameters: Mapping[str, Tensor]
    own: tuple[str, ...]
    moved: bool


def full_passes(
    transition: Transition, *, layers: Sequence[Layer], selected: Collection[str]
) -> Iterator[tuple[Layer, Gradients]]:
    """Yield each selected layer with G'_i, the gradient for its own parameters at the hybrid W' of that layer.

    Args:
        transition: W(t) to W(t+1) and the loss.
        layers: all layers, in the order of execution.
        selected: names of the layers wanted.

    Cost: a forward-backward pass for every selected layer before which a parameter has moved.
    """
    for hybrid in hybrids(transition, layers=layers, selected=selected):
        yield hybrid.layer, full_pass(transition, hybrid)


def hybrids(transition: Transition, *, layers: Sequence[Layer], selected: Collection[str]) -> Iterator[Hybrid]:
    """Yield W' of each selected layer, in the order of execution."""
    parameters, moved = dict(transition.before), False
    waiting = {name for name in parameters if not torch.equal(parameters[name], transition.after[name])}
    for layer in layers:
        if layer.name in selected:
            wanted = tuple(name for name in layer.parameters if name in transition.gradients)
            own = tuple(dict.fromkeys((*layer.parameters, *waiting)))
            yield Hybrid(layer, wanted, dict(parameters), own, moved)
        moved = moved or not waiting.isdisjoint(layer.parameters)
        waiting.difference_update(layer.parameters)
        parameters.update({name: transition.after[name] for name in layer.parameters})


def full_pass(transition: Transition, hybrid: Hybrid) -> Gradients:
    """Return G' of one layer."""
    if not (hybrid.moved and hybrid.wanted):
        return {name: transition.gradients[name] for name in hybrid.wanted}
    return transition.objective(hybrid.parameters, wanted=hybrid.wanted).gradients


def update(parameters: dict[str, Tensor], transition: Transition, layer: Layer) -> bool:
    """Put the layer's parameters at t+1 into `parameters`; return whether that changed a bit of them."""
    moved = [not torch.equal(parameters[name], transition.after[name]) for name in layer.parameters]
    parameters.update({name: transition.after[name] for name in layer.parameters})
    return any(moved)
