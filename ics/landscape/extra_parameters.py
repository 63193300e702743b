"""Parameters that the loss has beside the model's: of a criterion, or held by nobody but the training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

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
        used: modules that the loss uses; of their parameters those that are trained belong to these, and their buffers
            and attributes are kept.
        trained: what the optimizer trains; what is beside the model and in no module is called `extra.0` and so on.

    Attributes:
        parameters: by name.
        modules: modules that hold some of them, or that the loss uses.
        places: where the parameters and buffers of these modules sit.
        bare: names of parameters that sit in no module that was handed over.

    Raises:
        UsageError: something that is neither a module nor a parameter, or a name that the model has already.

    Example:
        >>> import torch
        >>> extra = ExtraParameters({"criterion": nn.Linear(1, 1), "temperature": nn.Parameter(torch.ones(1))})
        >>> list(extra.parameters)
        ['criterion.weight', 'criterion.bias', 'temperature']
    """

    def __init__(
        self,
        given: Mapping[str, nn.Module | nn.Parameter] | None = None,
        *,
        model: nn.Module | None = None,
        used: Mapping[str, nn.Module] | None = None,
        trained: Iterable[nn.Parameter] = (),
    ) -> None:
        self.parameters: dict[str, nn.Parameter] = {}
        self.places: dict[str, list[Place]] = {}
        self.modules: tuple[nn.Module, ...] = ()
        self._names = set() if model is None else {name for name, _ in model.named_parameters()}
        self._known = set() if model is None else set(map(id, [*model.parameters(), *model.buffers()]))
        self._held = set() if model is None else set(map(id, model.modules()))
        trained = tuple(trained)
        for name, each in (given or {}).items():
            if isinstance(each, nn.Module):
                self._take_module(name, each)
            else:
                self._take(name, _checked(name, each))
        optimized = frozenset(map(id, trained))
        for name, module in (used or {}).items():
            self._take_module(name, module, only=optimized)
        left = [each for each in trained if id(each) not in self._known]
        for number, each in enumerate(left):
            self._take(f"extra.{number}", each)
        self.bare = frozenset(self.parameters.keys() - self.places.keys())

    def _take_module(self, name: str, module: nn.Module, *, only: frozenset[int] | None = None) -> None:
        """Take what is new of a module: its buffers, and its parameters or `only` those of these ids."""
        places, buffers = tensor_places(module), dict(module.named_buffers())
        parameters = dict(module.named_parameters())
        for own, where in places.items():
            tensor = buffers[own] if own in buffers else parameters[own]
            if id(tensor) in self._known or not (own in buffers or only is None or id(tensor) in only):
                continue
            self.places[f"{name}.{own}"] = where
            if own in buffers:
                self._known.add(id(tensor))
            else:
                self._take(f"{name}.{own}", parameters[own])
        new = [each for each in module.modules() if id(each) not in self._held]
        self.modules += tuple(new)
        self._held |= set(map(id, new))

    def _take(self, name: str, parameter: nn.Parameter) -> None:
        if id(parameter) in self._known:
            return
        if name in self._names:
            raise UsageError(f"extra_parameters expects names of their own, got {name!r} twice; rename it")
        self._known.add(id(parameter))
        self._names.add(name)
        self.parameters[name] = parameter

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


def _checked(name: str, each: Any) -> nn.Parameter:
    if isinstance(each, Tensor) and each.is_leaf:
        return each  # type: ignore[return-value]
    raise UsageError(
        f"extra_parameters expects a module or a parameter for each name, got {type(each).__name__} for {name!r}; "
        'type extra_parameters={"criterion": criterion}'
    )
