"""The optimizers of `torch.optim` by name, in any case: `sgd`, `adam`, `rmsprop`, ..."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ics.errors import UsageError, unknown_name

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    name.lower(): kind
    for name, kind in sorted(vars(torch.optim).items())
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
"""Every optimizer that this version of torch has, under its name in lower case."""

_UNUSABLE: Mapping[str, str] = {
    "lbfgs": "evaluates the loss several times within a step, and a recorded step has one loss",
    "sparseadam": "takes sparse gradients alone, and these nets have none",
}
_OWN_SETTINGS: Mapping[str, str] = {"lr": "learning_rate", "momentum": "momentum", "weight_decay": "weight_decay"}


def canonical_optimizer(name: object) -> str:
    """Return the name of an optimizer as `OPTIMIZERS` has it.

    Raises:
        SelectionError: torch has no optimizer of this name.
        UsageError: it has, but a training here cannot use it.

    Example:
        >>> canonical_optimizer("AdamW")
        'adamw'
    """
    key = str(name).lower()
    if key not in OPTIMIZERS:
        raise unknown_name("optimizer", str(name), OPTIMIZERS)
    if key in _UNUSABLE:
        raise UsageError(f"optimizer={name!r} cannot be used: it {_UNUSABLE[key]}; type optimizer='sgd'")
    return key


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    settings: Mapping[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """Return an optimizer for the parameters.

    Args:
        name: a name in `OPTIMIZERS`.
        parameters: what it changes.
        learning_rate: its `lr`.
        momentum: its `momentum`; 0 leaves it as torch has it (0, but 0.95 for Muon).
        weight_decay: its `weight_decay`; 0 is 0, also where torch's default is another.
        settings: its further arguments by torch's names, e.g. `{"betas": [0.9, 0.99]}`.

    Raises:
        SelectionError: the optimizer has no such argument.
        UsageError: an argument that it refuses, or momentum or weight decay where it has none.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> build_optimizer("sgd", layer.parameters(), learning_rate=0.1, momentum=0.9).defaults["momentum"]
        0.9
    """
    kind = OPTIMIZERS[canonical_optimizer(name)]
    taken = _arguments(kind)
    arguments: dict[str, Any] = {"lr": learning_rate}
    if momentum:
        arguments["momentum"] = _only_where_taken("momentum", momentum, name, taken)
    if weight_decay or "weight_decay" in taken:
        arguments["weight_decay"] = _only_where_taken("weight_decay", weight_decay, name, taken)
    arguments |= _further(settings or {}, name, taken)
    try:
        return kind(parameters, **arguments)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"optimizer={name!r} refuses its settings: {reason}") from error


def check_optimizer(
    name: str, *, learning_rate: float, momentum: float, weight_decay: float, settings: Mapping[str, Any]
) -> None:
    """Raise what `build_optimizer` would, before there is a model."""
    build_optimizer(
        name,
        [nn.Parameter(torch.zeros(1, 1))],  # a matrix: Muon takes nothing else
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        settings=settings,
    )


def _arguments(kind: type[torch.optim.Optimizer]) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(kind).parameters if name != "params")


def _only_where_taken(argument: str, value: float, name: str, taken: Iterable[str]) -> float:
    if argument in taken:
        return value
    having = [other for other, kind in OPTIMIZERS.items() if argument in _arguments(kind) and other not in _UNUSABLE]
    raise UsageError(f"{argument} belongs to {', '.join(having)}, got {value!r} with {name}; type {argument}=0")


def _further(settings: Mapping[str, Any], name: str, taken: Iterable[str]) -> dict[str, Any]:
    for argument in settings:
        if argument in _OWN_SETTINGS:
            own = _OWN_SETTINGS[argument]
            raise UsageError(f"{argument} has a setting of its own, got it in optimizer_settings; type {own}=...")
        if argument not in taken:
            allowed = [each for each in taken if each not in _OWN_SETTINGS]
            raise unknown_name(f"setting of {name} (optimizer_settings)", argument, allowed)
    # JSON has lists where torch has tuples.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
