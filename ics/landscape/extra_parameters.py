"""Parameters that the loss has beside the model's: of a criterion, or held by nobody but the training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ics.errors import UsageError
from ics.landscape.substitution import Place, tensor_places


class ExtraParameters:
    """Parameters of the loss that are not the model's; part of W(t) and of its update, but of no layer.

    They are behind all layers: in the gradient G' of a layer they stand at W(t).

    Args:
        given: by name, a module (its parameters are called `name.weight` and so on) or a single parameter.
        model: what they are to lie beside; what is its own is left out.

    Attributes:
        parameters: by name.
        modules: modules that hold some of them.
        places: where the parameters and buffers of these modules sit.
        bare: names of parameters that sit in no module that was handed over.

    Raises:
        UsageError: something that is neither a module nor a parameter, or a name that the model has already.

    Example:
        >>> extra = ExtraParameters({"criterion": nn.Linear(1, 1), "temperature": nn.Parameter(torch.ones(1))})
        >>> list(extra.parameters)
        ['criterion.weight', 'criterion.bias', 'temperature']
    """

    def __init__(self, given: Mapping[str, nn.Module | nn.Parameter] | None = None, *, model: Any = None) -> None:
        self.parameters: dict[str, nn.Parameter] = {}
        self.places: dict[str, list[Place]] = {}
        self.modules: tuple[nn.Module, ...] = ()
        names = set() if model is None else {name for name, _ in model.named_parameters()}
        known = set() if model is None else set(map(id, [*model.parameters(), *model.buffers(), *model.modules()]))
        for name, each in (given or {}).items():
            found = dict(_named(name, each))
            if isinstance(each, nn.Module):
                places = tensor_places(each)
                tensors = dict([*each.named_parameters(), *each.named_buffers()])
                own = {own: where for own, where in places.items() if id(tensors[own]) not in known}
                self.places |= {f"{name}.{own}": where for own, where in own.items()}
                self.modules += tuple(module for module in each.modules() if id(module) not in known)
                known |= set(map(id, [*tensors.values(), *each.modules()]))
            for full, parameter in found.items():
                if isinstance(each, nn.Module) and full not in self.places:
                    continue
                if full in names | self.parameters.keys():
                    raise UsageError(f"extra_parameters expects names of their own, got {full!r} twice; rename it")
                if id(parameter) not in set(map(id, self.parameters.values())):
                    self.parameters[full] = parameter
        self.bare = frozenset(self.parameters.keys() - self.places.keys())

    def buffers(self) -> dict[str, Tensor]:
        """The present buffers of the modules."""
        return {name: where[0][0][where[0][1]] for name, where in self.places.items() if name not in self.parameters}

    def exchanged(self, values: Mapping[str, Tensor]) -> AbstractContextManager[object]:
        """Return a context in which every operation takes the values in place of parameters that sit in no module."""
        return (
            _Exchange({id(self.parameters[name]): values[name] for name in self.bare}) if self.bare else nullcontext()
        )


class _Exchange(TorchFunctionMode):
    """Hands other tensors to the operations of torch, by identity, whoever holds the original: a closure, a list."""

    def __init__(self, values: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._values = values

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*self._in(tuple(args)), **self._in(kwargs or {}))

    def _in(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._values.get(id(value), value)
        if type(value) in (tuple, list):
            return type(value)(map(self._in, value))
        if type(value) is dict:
            return {key: self._in(each) for key, each in value.items()}
        return value


def optimized_beside(model: nn.Module, optimizer: Any, given: Mapping[str, Any]) -> dict[str, nn.Parameter]:
    """Return what the optimizer trains beside the model and what was handed over, as `extra.0` and so on."""
    known = set(map(id, model.parameters()))
    for each in given.values():
        known |= set(map(id, each.parameters() if isinstance(each, nn.Module) else [each]))
    groups = getattr(optimizer, "param_groups", None) or ()
    held = [each for group in groups for each in group["params"] if id(each) not in known]
    return {f"extra.{number}": each for number, each in enumerate(held)}


def _named(name: str, each: Any) -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(each, nn.Module):
        yield from ((f"{name}.{own}", parameter) for own, parameter in each.named_parameters())
    elif isinstance(each, torch.Tensor) and each.is_leaf:
        yield name, each  # type: ignore[misc]
    else:
        raise UsageError(
            f"extra_parameters expects a module or a parameter for each name, got {type(each).__name__} for {name!r}; "
            'type extra_parameters={"criterion": criterion}'
        )
