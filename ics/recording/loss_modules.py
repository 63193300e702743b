"""Modules that a loss uses beside the model: in its closure, its globals, or the object that it is a method of."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

_DEPTH = 4
_MOST = 500


def modules_of_loss(loss_fn: Any) -> dict[str, nn.Module]:
    """Return the modules that a loss can reach, by the name under which it holds them.

    What they hold is protected while the loss is run again: a criterion may keep running averages.

    Example:
        >>> criterion = nn.PReLU()
        >>> list(modules_of_loss(lambda model, x: criterion(model(x)).sum()))
        ['criterion']
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    waiting = [("loss_fn", loss_fn, 0)]
    while waiting and len(seen) < _MOST:
        name, value, depth = waiting.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            # Two of one name: the first keeps it.
            found[name if name not in found else f"{name}_{len(found)}"] = value
        elif depth < _DEPTH:
            waiting += [(own or name, part, depth + 1) for own, part in _parts(value)]
    return found


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds, with the names that it has there."""
    if isinstance(value, partial):
        yield from (("", part) for part in (value.func, *value.args))
        yield from value.keywords.items()
    elif isinstance(value, types.MethodType):
        yield from (("", value.__self__), ("", value.__func__))
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, dict):
        yield from ((str(key), part) for key, part in islice(value.items(), _MOST))
    elif isinstance(value, list | tuple | set):
        yield from (("", part) for part in islice(value, _MOST))
    elif _is_of_the_user(value):
        yield from vars(value).items()


def _parts_of_function(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    code: types.CodeType = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    yield from (("", part) for part in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    known: Mapping[str, Any] = function.__globals__
    codes = [code]
    for each in codes:  # grows: functions within the function
        codes += [constant for constant in each.co_consts if isinstance(constant, types.CodeType)]
        yield from ((name, known[name]) for name in each.co_names if name in known)


def _is_of_the_user(value: Any) -> bool:
    """Whether to look into an object: not into what a library keeps for itself, nor into data."""
    if isinstance(value, type | types.ModuleType | torch.Tensor | torch.optim.Optimizer) or not hasattr(
        value, "__dict__"
    ):
        return False
    return not type(value).__module__.startswith(("torch", "numpy", "builtins", "ics.recording"))
