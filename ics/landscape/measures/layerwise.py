"""What measurements with rows per layer and set of parameters share: which layers, which parameters, what is null."""

from __future__ import annotations

from collections.abc import Sequence

from ics.errors import UsageError, unknown_name
from ics.landscape.measures.zero_gradients import cancelled_parameters
from ics.landscape.transition import Transition
from ics.records import Layer

NOTHING_TRAINED = "no trained parameter of its own: frozen, or shared with an earlier layer"


def in_order(layers: Sequence[Layer], *, measurement: str) -> list[Layer]:
    """Return the layers by execution; with a layer missing, later ones would be measured as if it had not moved.

    Raises:
        UsageError: `layers` is not every layer in the order of execution.
    """
    ordered = sorted(layers, key=lambda layer: layer.index)
    if [layer.index for layer in ordered] != list(range(len(ordered))):
        raise UsageError(
            f"{measurement} expects every layer of the model, numbered from 0 in the order of execution, got numbers "
            f"{[layer.index for layer in ordered]}; type {measurement}(transition, layers=all_layers, selected=some)"
        )
    return ordered


def chosen_layers(layers: Sequence[Layer], selected: Sequence[Layer] | None) -> list[Layer]:
    """Return the `selected` ones of all layers, in their order; all of them for None.

    Raises:
        SelectionError: a selected layer that is not there.
    """
    if selected is None:
        return list(layers)
    names = [layer.name for layer in layers]
    for layer in selected:
        if layer.name not in names:
            raise unknown_name("layer", layer.name, names)
    chosen = {layer.name for layer in selected}
    return [layer for layer in layers if layer.name in chosen]


def trained_names(transition: Transition, layer: Layer, parameters: str = "all") -> tuple[str, ...]:
    """Return the trained parameters of a layer: of its "weight", or "all" of them."""
    names = layer.weight if parameters == "weight" else layer.parameters
    return tuple(name for name in names if name in transition.gradients)


def undirected_shift(transition: Transition, layer: Layer, names: Sequence[str], shift: float) -> str | None:
    """Say why G' - G of the parameters `names` of a layer, `shift` long, has no direction; None if it has one."""
    if shift == 0:
        return "the shift is exactly zero"
    if cancelled_parameters(transition.objective.model, layer).issuperset(names):
        return "the gradient is zero by construction, the normalisation behind it subtracts the bias again"
    return None
