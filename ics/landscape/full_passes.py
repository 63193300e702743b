"""G' of every layer, one full forward-backward pass each: obvious, and right for any model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from ics.landscape.transition import Transition
from ics.records import Layer

Gradients = dict[str, Tensor | None]


def full_passes(
    transition: Transition, *, layers: Sequence[Layer], selected: Collection[str]
) -> Iterator[tuple[Layer, Gradients]]:
    """Yield each selected layer with G'_i, the gradient for its own parameters at the hybrid W' of that layer.

    W'_i has the parameters of all layers executed before layer i at t+1, all others, layer i's own included, at t.

    Args:
        transition: W(t) to W(t+1) and the loss.
        layers: all layers, in the order of execution.
        selected: names of the layers wanted.

    Cost: a forward-backward pass for every selected layer before which a parameter has moved; where none has, G' is
    G by definition and nothing is evaluated.
    """
    hybrid, moved = dict(transition.before), False
    for layer in layers:
        wanted = trained(transition, layer)
        if layer.name in selected:
            unchanged = not moved or not wanted
            yield (
                layer,
                present(transition, wanted) if unchanged else transition.objective(hybrid, wanted=wanted).gradients,
            )
        moved = update(hybrid, transition, layer) or moved


def trained(transition: Transition, layer: Layer) -> list[str]:
    """Return the parameters of a layer that are trained."""
    return [name for name in layer.parameters if name in transition.gradients]


def present(transition: Transition, names: Sequence[str]) -> Gradients:
    """Return G of the parameters called `names`."""
    return {name: transition.gradients[name] for name in names}


def update(hybrid: dict[str, Tensor], transition: Transition, layer: Layer) -> bool:
    """Put the layer's parameters at t+1 into `hybrid`; return whether that changed a bit of them."""
    moved = [not torch.equal(hybrid[name], transition.after[name]) for name in layer.parameters]
    hybrid.update({name: transition.after[name] for name in layer.parameters})
    return any(moved)
