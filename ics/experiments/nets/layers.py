"""The layers of a net in the order of execution, for variants of training: which weights belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ics.errors import UsageError
from ics.experiments.training.evaluation import evaluating
from ics.experiments.training.machine import draws_undone

AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Modules that compute pre-activations W u + b, with one row of W for each unit (output channel)."""


@dataclass(frozen=True, slots=True)
class NetLayer:
    """A module with weights, together with what follows it and only scales and shifts.

    Attributes:
        name: dotted name of the module.
        module: the module.
        parameters: its parameters, and those of the normalisations that run before the next module with weights, by
            name.
        num_calls: how often a forward pass calls it.
    """

    name: str
    module: nn.Module
    parameters: dict[str, nn.Parameter]
    num_calls: int


def layers_in_order(model: nn.Module, inputs: Tensor) -> tuple[NetLayer, ...]:
    """Return the layers that a forward pass of `inputs` goes through, in the order in which they are first called.

    A module whose parameters are all vectors (gamma and beta) belongs to the layer before it. A parameter that two
    modules share belongs to the first. The pass is made in eval mode and changes nothing.

    Raises:
        UsageError: a parameter belongs to no module that is called.
    """
    calls = _calls(model, inputs)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    heads: list[tuple[nn.Module, dict[str, nn.Parameter]]] = []
    for module in calls:
        own = {names.pop(id(each)): each for each in module.parameters(recurse=False) if id(each) in names}
        if heads and all(parameter.ndim < 2 for parameter in own.values()):
            heads[-1][1].update(own)
        elif own:
            heads.append((module, own))
    if names:
        raise UsageError(
            f"{next(iter(names.values()))} belongs to no module that the forward pass calls, so it is of no layer; "
            "give it to a module of its own"
        )
    name_of = {module: name for name, module in model.named_modules()}
    return tuple(NetLayer(name_of[module], module, own, calls[module]) for module, own in heads)


def hidden_layers(layers: Iterable[NetLayer], *, needed_for: str) -> tuple[NetLayer, ...]:
    """Return the linear and convolutional layers except the last, whose outputs are those of the net.

    Raises:
        UsageError: there are none.
    """
    affine = [layer for layer in layers if isinstance(layer.module, AFFINE)]
    if len(affine) < 2:
        raise UsageError(f"{needed_for} changes hidden layers (Linear or Conv), and this model has none")
    return tuple(affine[:-1])


def by_unit(module: nn.Module, values: Tensor) -> Tensor:
    """Return the output of a linear or convolutional module as (units, values): samples and places are values.

    Example:
        >>> by_unit(nn.Conv2d(3, 5, 1), torch.zeros(2, 5, 4, 4)).shape
        torch.Size([5, 32])
    """
    axis = -1 if isinstance(module, nn.Linear) else 1
    return values.movedim(axis, 0).flatten(1)


def _calls(model: nn.Module, inputs: Tensor) -> dict[nn.Module, int]:
    """How often each module with parameters of its own is called, in the order of the first calls."""
    calls: dict[nn.Module, int] = {}

    def count(module: nn.Module, _: object, __: object) -> None:
        calls[module] = calls.get(module, 0) + 1

    with_parameters = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    with torch.no_grad(), evaluating(model), draws_undone(inputs.device), _hooked(with_parameters, count):
        model(inputs)
    return calls


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: object) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
