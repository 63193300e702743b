"""Groups the modules that ran into layers: which parameters belong together, in the order of execution."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from ics.probes.structure.names import ROOT, kind_of, module_names, raw_names
from ics.records import Layer

Grouping = Literal["paper", "leaf"]
Slot = tuple[nn.Module, str]


class ParameterUse:
    """Which parameters functions were called with, told apart by the module and the name that hold them.

    Tells `MultiheadAttention.out_proj`, a module whose parameters are used though it is never called, from a head
    that nothing uses.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.slots: set[Slot] = set()
        self._modules = tuple(modules)
        self._watched: dict[int, list[Slot]] = {}

    def refresh(self) -> None:
        """Look up anew which tensors the modules hold: an evaluation elsewhere puts others in their places."""
        self._watched = {}
        for module in self._modules:
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    self._watched.setdefault(id(parameter), []).append((module, name))

    def notice(self, arguments: Any) -> None:
        """Note the parameters among the arguments of a function."""
        if isinstance(arguments, Tensor):
            self.slots.update(self._watched.get(id(arguments), ()))
        elif isinstance(arguments, list | tuple):
            for argument in arguments:
                self.notice(argument)
        elif isinstance(arguments, Mapping):
            for argument in arguments.values():
                self.notice(argument)


def followed_modules(model: nn.Module) -> dict[nn.Module, str]:
    """Return the modules whose calls are followed, with their names.

    Left out are those that compute a parametrization, and scripted modules, which take no hooks.
    """
    left_out = {
        module
        for outer in model.modules()
        if isinstance(outer, parametrize.ParametrizationList | torch.jit.ScriptModule)
        for module in outer.modules()
    }
    return {module: name for module, name in module_names(model).items() if module not in left_out}


def group_layers(
    model: nn.Module,
    *,
    called: Sequence[nn.Module],
    follows: Mapping[nn.Module, nn.Module],
    used: Collection[Slot],
    grouping: Grouping,
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return the layers in the order of execution, and the names of modules whose parameters nothing used.

    Args:
        model: the model that ran.
        called: its modules in the order in which they were first called.
        follows: normalisation to the module whose output it was given, unmodified.
        used: the parameters that functions were called with.
        grouping: "paper" puts a normalisation into the layer that it follows, "leaf" makes it a layer of its own.
    """
    names, raw = module_names(model), raw_names(model)
    # A parameter belongs to the module that holds it if that is called, else to one above that is.
    claims = _claims(raw, called=set(called), used=used)
    attached = {norm: head for norm, head in follows.items() if grouping == "paper" and claims.get(head)}
    canonical = {id(parameter): name for name, parameter in model.named_parameters()}
    claimed: set[int] = set()
    layers: list[Layer] = []
    for head in called:
        if head in attached:
            continue
        modules = [head, *(norm for norm, first in attached.items() if first is head)]
        slots = [slot for module in modules for slot in claims.get(module, ())]
        owned = {id(module._parameters[name]): (module, name) for module, name in slots}
        # Shared parameters (tied embeddings) belong to the layer that used them first; counted twice, their gradient
        # would be too.
        owned = {key: slot for key, slot in owned.items() if key not in claimed}
        claimed |= owned.keys()
        if owned:
            parameters = {canonical[key]: slot for key, slot in owned.items()}
            shown = tuple(raw[module] for module in modules)
            layers.append(_make_layer(head, names[head] or ROOT, len(layers), shown, parameters, claims.get(head, [])))
    idle = {
        names[module] or ROOT
        for module in raw
        for parameter in module._parameters.values()
        if parameter is not None and id(parameter) not in claimed
    }
    return tuple(layers), tuple(sorted(idle))


def declared_layers(model: nn.Module) -> tuple[Layer, ...]:
    """Return every module as a layer by itself, in the order of declaration: what rows may be selected from."""
    raw = raw_names(model)
    layers = []
    for index, (module, name) in enumerate(module_names(model).items()):
        owned = {
            f"{raw[module]}.{key}".lstrip("."): (module, key)
            for key, value in module._parameters.items()
            if value is not None
        }
        layers.append(_make_layer(module, name or ROOT, index, (raw[module],), owned, list(owned.values())))
    return tuple(layers)


def _claims(
    raw: Mapping[nn.Module, str], *, called: set[nn.Module], used: Collection[Slot]
) -> dict[nn.Module, list[Slot]]:
    """Return the parameters that belong to each called module: its own, and the used ones of modules never called."""
    by_name = {name: module for module, name in raw.items()}
    claims: dict[nn.Module, list[Slot]] = {}
    for module in raw:
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            owner = module if module in called else _called_above(raw[module], by_name, called)
            if owner is module or (
                owner is not None and ((module, name) in used or parametrize.is_parametrized(owner))
            ):
                claims.setdefault(owner, []).append((module, name))
    return claims


def _called_above(name: str, by_name: Mapping[str, nn.Module], called: set[nn.Module]) -> nn.Module | None:
    while name:
        name = name.rpartition(".")[0]
        if (above := by_name.get(name)) in called:
            return above
    return None


def _make_layer(
    head: nn.Module,
    name: str,
    index: int,
    modules: tuple[str, ...],
    parameters: Mapping[str, Slot],
    claims: Sequence[Slot],
) -> Layer:
    weight = _weight_of(head, parameters, claims)
    values = {key: module._parameters[slot] for key, (module, slot) in parameters.items()}
    sizes = [0 if is_lazy(value) else value.numel() for value in values.values() if value is not None]
    first = values[weight[0]] if weight else None
    return Layer(
        name=name,
        index=index,
        kind=kind_of(head),
        modules=modules,
        weight=weight,
        parameters=tuple(parameters),
        shape=() if first is None or is_lazy(first) else tuple(first.shape),
        num_parameters=sum(sizes),
    )


def _weight_of(head: nn.Module, parameters: Mapping[str, Slot], claims: Sequence[Slot]) -> tuple[str, ...]:
    """Return the head's `weight`; without one all its matrices, without those all its parameters.

    Empty where the weight belongs to a layer that used it earlier.
    """
    mine = {name: slot for name, slot in parameters.items() if slot in claims}
    if head._parameters.get("weight") is not None:
        return tuple(name for name, slot in mine.items() if slot == (head, "weight"))
    values = {name: module._parameters[slot] for name, (module, slot) in mine.items()}
    matrices = tuple(
        name for name, value in values.items() if value is not None and not is_lazy(value) and value.ndim > 1
    )
    return matrices or tuple(mine)


def layer_numbers(names: Iterable[str], layers: Sequence[Layer]) -> dict[str, int]:
    """Return the number of every name, given in the order in which they appeared.

    What is no layer (an activation of a sum, say) has the number of the layer that ran before it, so that a name has
    one number in every table.
    """
    indices, number, numbers = {layer.name: layer.index for layer in layers}, 0, {}
    for name in names:
        number = indices.get(name, number)
        numbers[name] = number
    return numbers
