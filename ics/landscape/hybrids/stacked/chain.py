"""A model's modules as a chain, where they are one: each is called once, on what the one before it returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from ics.landscape.hybrids.replay.call_recording import Watched

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Stage:
    """One module of a chain.

    Attributes:
        module: the module.
        names: the model's name of each of its parameters, by the module's own name.
    """

    module: nn.Module
    names: Mapping[str, str]

    def among(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the values for the module's own parameters by its own names, of values by the model's names."""
        return {own: values[name] for own, name in self.names.items()}


@dataclass(frozen=True)
class Chain:
    """The `nn.Sequential` that holds all of a model's parameters, nested ones unfolded.

    Attributes:
        sequential: the module that is called.
        stages: what it calls, in order.
    """

    sequential: nn.Module
    stages: tuple[Stage, ...]

    @cached_property
    def places(self) -> dict[str, int]:
        """Position of the stage that each parameter belongs to, by the model's name of it."""
        return {name: place for place, stage in enumerate(self.stages) for name in stage.names.values()}

    @classmethod
    def of(cls, model: nn.Module) -> Chain | None:
        """Return a model's chain; None if it is none, has hooks, or uses a parameter in two places of the chain.

        Example:
            >>> inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
            >>> [list(stage.names.values()) for stage in Chain.of(nn.Sequential(inner, nn.Linear(2, 1))).stages]
            [['0.0.weight', '0.0.bias'], [], ['1.weight', '1.bias']]
        """
        if _has_hooks(model):  # a hook expects the tensors of one net, not of several at once
            return None
        names = {id(value): name for name, value in model.named_parameters()}
        for module in model.modules():
            if _is_sequential(module) and {id(value) for value in module.parameters()} == names.keys():
                stages = tuple(
                    Stage(each, {own: names[id(value)] for own, value in each.named_parameters()})
                    for each in _unfolded(module)
                )
                used = [name for stage in stages for name in stage.names.values()]
                return cls(module, stages) if len(used) == len(set(used)) else None
        return None

    @contextmanager
    def answered(self, answer: Callable[[Any], Any]) -> Iterator[list[None]]:
        """Let `answer(input)` stand in for the call of the chain; yields a list that grows with every call."""
        calls: list[None] = []

        def stand_in(value: Any) -> Any:
            calls.append(None)
            return answer(value)

        vars(self.sequential)["forward"] = stand_in  # so that code and contexts around the chain run as they are
        try:
            yield calls
        finally:
            del vars(self.sequential)["forward"]


@contextmanager
def readings_noted(model: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that grows with every parameter that is read from the module that holds it."""
    read: list[Tensor] = []

    def note(value: Tensor | None) -> None:
        if value is not None:
            read.append(value)

    watched = [(module, module._parameters) for module in model.modules()]
    try:
        for module, entries in watched:
            vars(module)["_parameters"] = Watched(entries, note)
        yield read
    finally:
        for module, entries in watched:
            vars(module)["_parameters"] = entries


def _is_sequential(module: nn.Module) -> bool:
    return getattr(type(module), "forward", None) is nn.Sequential.forward and "forward" not in vars(module)


def _unfolded(module: nn.Module) -> Iterator[nn.Module]:
    for child in module._modules.values():  # `children()` leaves out a module that occurs twice
        assert child is not None
        if _is_sequential(child):
            yield from _unfolded(child)
        else:
            yield child


def _has_hooks(model: nn.Module) -> bool:
    everywhere = any(getattr(global_hooks, f"_global{name}") for name in _HOOKS)
    return everywhere or any(getattr(module, name) for module in model.modules() for name in _HOOKS)
