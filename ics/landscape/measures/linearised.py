"""The part of the gradient shift that is linear in the update: the Hessian's blocks below the diagonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ics import schema, stats
from ics.landscape.hybrids.plan import moved_names
from ics.landscape.measures.hessian import HessianAt
from ics.landscape.measures.layerwise import (
    NOTHING_TRAINED,
    chosen_layers,
    in_order,
    trained_names,
    undirected_shift,
)
from ics.landscape.transition import ParameterGradients, Transition, vector
from ics.records import Layer


def linearised_shift(
    transition: Transition, *, layers: Sequence[Layer], selected: Sequence[Layer] | None = None
) -> dict[str, dict[str, Tensor]]:
    """Measure the gradient shift to first order in the update Delta = W(t+1) - W(t).

    G'_i - G_i = sum_{j<i} H_ij Delta_j + O(||Delta||^2),   H_ij = d^2 L / dW_i dW_j at W(t)

    on the batch of the update with its random draws. Exact where the loss is quadratic in the parameters. The gradient
    is computed once and its graph kept; the inner products s_i = sum_{j<i} <g_j, Delta_j> grow by one term a layer,
    and the gradient of s_i for W_i is layer i's row of the sum. The Hessian of a net with kinks (ReLU, max-pooling) is
    that of the piece W(t) lies on: units that the update switches on or off are in the shift and never in this, so that
    with kinks the two agree only for updates that cross none.

    Args:
        transition: W(t) to W(t+1) and the loss.
        layers: all layers of the model in the order of execution.
        selected: the layers wanted; default all.

    Returns:
        Layer name to parameter name to tensor, of the parameter's shape and in loss/weight: the trained parameters of
        each selected layer. Zeros for the first layer.

    Cost: one forward-backward pass with its graph kept, and per selected layer before which something moved one
    backward pass through that graph, about two plain ones. Memory: about twice that of a training step.

    Source: first-order expansion of Santurkar et al. 2018, Def. 2.1.

    Raises:
        UsageError: `layers` is not every layer in the order of execution.
        SelectionError: a selected layer that is not there.
        RuntimeError: torch's, for a loss that is not twice differentiable.

    Example:
        >>> from ics.landscape import Objective, make_transition
        >>> class Product(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        >>> model = Product()
        >>> objective = Objective(model, lambda model, x: (model.a.weight * model.b.weight).sum(), None)
        >>> before = {"a.weight": torch.tensor([[2.0]]), "b.weight": torch.tensor([[3.0]])}
        >>> after = {"a.weight": torch.tensor([[2.5]]), "b.weight": torch.tensor([[1.0]])}
        >>> layers = [
        ...     Layer(n, i, "Linear", (n,), (f"{n}.weight",), (f"{n}.weight",), (1, 1), 1) for i, n in enumerate("ab")
        ... ]
        >>> linearised_shift(make_transition(objective, before=before, after=after), layers=layers)   # L = ab
        {'a': {'a.weight': tensor([[0.]])}, 'b': {'b.weight': tensor([[0.5000]])}}
    """
    layers = in_order(layers, measurement="linearised_shift")
    chosen = {layer.name for layer in chosen_layers(layers, selected)}
    update = {layer.name: _update(transition, layer) for layer in layers}
    moved = [name for each in update.values() for name in each]
    wanted = dict.fromkeys([*transition.gradients, *moved])  # a frozen parameter that was moved by hand has its part
    found: dict[str, dict[str, Tensor]] = {}
    with HessianAt(transition.objective, transition.before, wanted=list(wanted)) as hessian:
        slopes: list[list[Tensor]] = [[] for _ in transition.objective.batches]
        for layer in layers:
            # Before the layer's own term is added: its own update is no part of its shift.
            if layer.name in chosen:
                found[layer.name] = hessian.slope_gradient(slopes, of=trained_names(transition, layer))
            if update[layer.name]:
                slopes = [a + b for a, b in zip(slopes, hessian.slopes(update[layer.name]), strict=True)]
    return found


def compare_linearised(
    transition: Transition,
    linearised: Mapping[str, Mapping[str, Tensor]],
    shifted: Mapping[str, ParameterGradients],
    *,
    layers: Sequence[Layer],
) -> dict[str, list[Any]]:
    """Measure how much of the shift s = G' - G of each layer its linearisation l explains.

    `linearised_l2` = ||l||, `linearised_cosine` = cos(l, s), `unexplained_relative` = ||s - l|| / ||s||.

    Args:
        transition: W(t) to W(t+1), with G.
        linearised: what `linearised_shift` returned.
        shifted: layer name to G' of its parameters, as `full_passes` yields them.
        layers: the layers to compare, each of which both have.

    Returns:
        Frame-ready columns `layer, layer_index, parameters, linearised_l2, linearised_cosine, unexplained_relative,
        null_reason`; two rows a layer, for its weight and for all its parameters, in the order of `gradient_shift`.
        `linearised_l2` in loss/weight. Where the shift is exactly zero, or rounding by construction, cosine and
        unexplained part are null.

    Cost: no pass.

    Example:
        >>> from ics.landscape import Objective, make_transition
        >>> objective = Objective(torch.nn.Linear(2, 1, bias=False), lambda model, x: model(x).sum(), torch.ones(1, 2))
        >>> transition = make_transition(objective, before=objective.parameters, after={})
        >>> layers = [Layer("", 0, "Linear", ("",), ("weight",), ("weight",), (1, 2), 2)]
        >>> linearised = linearised_shift(transition, layers=layers)
        >>> columns = compare_linearised(transition, linearised, {"": transition.gradients}, layers=layers)
        >>> columns["linearised_l2"], columns["unexplained_relative"]
        ([0.0, 0.0], [None, None])
    """
    keys = [(layer, parameters) for layer in layers for parameters in schema.PARAMETERS]
    measured = [
        _measure(transition, linearised[layer.name], shifted[layer.name], trained_names(transition, layer, parameters))
        for layer, parameters in keys
    ]
    numbers = torch.stack(measured).tolist() if measured else []  # the one copy to the host
    rows = [_row(transition, *key, values) for key, values in zip(keys, numbers, strict=True)]
    names = ("layer", "layer_index", "parameters", "linearised_l2", "linearised_cosine", "unexplained_relative")
    return {name: [row.get(name) for row in rows] for name in (*names, "null_reason")}


def _update(transition: Transition, layer: Layer) -> dict[str, Tensor]:
    """Return Delta of the parameters of a layer that moved."""
    return {name: transition.after[name] - transition.before[name] for name in moved_names(transition, layer)}


def _measure(
    transition: Transition, linearised: Mapping[str, Tensor], shifted: ParameterGradients, names: Sequence[str]
) -> Tensor:
    """Return ||s||, ||l||, cos(l, s), ||s - l||, shape (4,)."""
    g, g_shifted = (vector(each, names, like=transition.before) for each in (transition.gradients, shifted))
    if not g:
        return transition.loss.new_zeros(4, dtype=torch.float32)
    shift = [b - a for a, b in zip(g, g_shifted, strict=True)]
    line = [linearised[name] for name in names]
    return torch.stack([stats.norm(shift), stats.norm(line), stats.cosine(line, shift), stats.distance(shift, line)])


def _row(transition: Transition, layer: Layer, parameters: str, numbers: Sequence[float]) -> dict[str, Any]:
    """Return the cells of a row; what is undefined is null, and null_reason says why."""
    shift, length, cosine, unexplained = numbers
    row: dict[str, Any] = {"layer": layer.name, "layer_index": layer.index, "parameters": parameters}
    names = trained_names(transition, layer, parameters)
    if not names:
        return row | {"null_reason": NOTHING_TRAINED}
    row["linearised_l2"] = length
    reason = undirected_shift(transition, layer, names, shift)
    if reason:
        return row | {"null_reason": f"linearised_cosine and unexplained_relative: {reason}"}
    row["unexplained_relative"] = unexplained / shift
    if length == 0:
        return row | {"null_reason": "linearised_cosine: the linearised shift is exactly zero"}
    return row | {"linearised_cosine": cosine}
