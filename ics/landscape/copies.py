"""Copies of what a loss reads: batches and plain attributes, whatever they are made of, and whether they changed."""

from __future__ import annotations

import copy
import enum
import pickle
import random
from collections import UserDict, UserList, deque
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

_ATOMS = (type(None), bool, int, float, complex, str, bytes, range, slice, enum.Enum, torch.dtype, torch.device)
# Shared: copying a data set or a model would cost more than any number is worth, and a parameter is known by identity.
_SHARED = (
    nn.Module,
    nn.Parameter,
    torch.optim.Optimizer,
    torch.Generator,
    Dataset,
    DataLoader,
    Sampler,
    type,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    ModuleType,
    Iterator,
)
_KEPT = (*_ATOMS, *_SHARED)
_COMMON = frozenset({type(None), bool, int, float, str, bytes})
_CONTAINERS = (dict, list, deque, bytearray, UserDict, UserList, MappingProxyType)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)
_DATA = (*_ATOMS, *_CONTAINERS, tuple, set, frozenset, Tensor, np.ndarray)
_DEPTH = 16
_MOST = 100_000


def copied(value: Any, *, memo: dict[int, Any] | None = None, whole: bool = True) -> Any:
    """Return `value` with every container and buffer in it copied, whatever their type; what is immutable is shared.

    Objects that are met twice stay one object. What cannot be copied is handed back itself.

    Args:
        value: a batch, or the attribute of a module.
        memo: by the id of an object, what stands for it in the copy; grows.
        whole: whether to look into every object, as into those of a batch; if not, only into such as hold nothing but
            data: a module may hold what trains it, and with that everything.

    Example:
        >>> batch = {"x": torch.zeros(2), "names": ["a"]}
        >>> kept = copied(batch)
        >>> _ = batch.pop("names"), batch["x"].add_(1)
        >>> kept
        {'x': tensor([0., 0.]), 'names': ['a']}
    """
    return _copied(value, {} if memo is None else memo, _DEPTH, whole)


def same(value: Any, kept: Any) -> bool:
    """Return whether `value` holds what its copy `kept` holds, bit for bit."""
    return _same(value, kept, set())


def changes(value: Any) -> bool:
    """Return whether `value` may change without being assigned: a tensor, an array, a container, an object."""
    return not isinstance(value, _KEPT)


def _copied(value: Any, memo: dict[int, Any], depth: int, whole: bool) -> Any:
    if type(value) in _COMMON or depth == 0 or isinstance(value, _KEPT):
        return value
    if id(value) in memo:
        return memo[id(value)]
    made = value
    try:
        if isinstance(value, Tensor):
            made = _copied_tensor(value)
        elif isinstance(value, np.ndarray):
            made = value.copy(order="K")
        elif isinstance(value, tuple):
            made = _copied_tuple(value, memo, depth, whole)
        elif isinstance(value, set | frozenset):
            made = copy.copy(value)
        elif isinstance(value, _GENERATORS):
            made = copy.deepcopy(value)
        elif isinstance(value, _CONTAINERS) or (whole and _has_attributes(value)) or _is_data(value):
            made = _copied_object(value, memo, depth, whole)
    except Exception:  # an object of its own ways: the loss sees it as it is
        made = value
    memo[id(value)] = made
    return made


def _copied_tensor(value: Tensor) -> Tensor:
    """Return a clone in the layout of the original: other strides choose other kernels, and with them other bits."""
    made = value.detach().clone()
    differs = made.layout == torch.strided and not made.is_nested and made.stride() != value.stride()
    if differs and 0 not in value.stride():  # an expanded tensor's memory cannot be written apart
        made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device).copy_(made)
    for name, held in vars(value).items():  # what a subclass, or the user, keeps beside the numbers
        vars(made).setdefault(name, held)
    return made.requires_grad_(value.requires_grad) if value.requires_grad else made


def _copied_tuple(value: tuple[Any, ...], memo: dict[int, Any], depth: int, whole: bool) -> Any:
    parts = [_copied(part, memo, depth - 1, whole) for part in value]
    if all(part is old for part, old in zip(parts, value, strict=True)):
        return value
    try:
        made = tuple.__new__(type(value), parts)
    except TypeError:  # what torch.max returns
        return type(value)(parts)
    if "__dict__" in dir(value):
        vars(made).update(vars(value))
    return made


def _copied_object(value: Any, memo: dict[int, Any], depth: int, whole: bool) -> Any:
    """Return a shallow copy in which items and attributes are copies too, whoever forbids to assign them."""
    if isinstance(value, MappingProxyType):
        return MappingProxyType({key: _copied(item, memo, depth - 1, whole) for key, item in value.items()})
    made = copy.copy(value)
    if made is value:
        return value
    memo[id(value)] = made  # before its parts: they may lead back to it
    if isinstance(value, dict):
        for key, item in dict.items(value):
            new = _copied(item, memo, depth - 1, whole)
            if dict.get(made, key) is not new:
                dict.__setitem__(made, key, new)
    elif isinstance(value, list):
        list.__setitem__(made, slice(None), [_copied(item, memo, depth - 1, whole) for item in list.__iter__(value)])
    elif isinstance(value, deque):
        for place, item in enumerate(value):
            made[place] = _copied(item, memo, depth - 1, whole)
    for name, held in list(_attributes(made)):
        new = _copied(held, memo, depth - 1, whole)
        if new is not held:
            object.__setattr__(made, name, new)
    return made


def _has_attributes(value: Any) -> bool:
    return next(_attributes(value), None) is not None


def _is_data(value: Any) -> bool:
    """Whether an object holds data alone."""
    held = [each for _, each in _attributes(value)]
    return bool(held) and (is_dataclass(value) or all(isinstance(each, _DATA) for each in held))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _same(value: Any, kept: Any, seen: set[int]) -> bool:
    if value is kept or id(value) in seen:
        return True
    if type(value) is not type(kept):
        return False
    if isinstance(value, Tensor):
        return _same_tensor(value, kept)
    if isinstance(value, np.ndarray):
        return value.shape == kept.shape and value.dtype == kept.dtype and value.tobytes() == kept.tobytes()
    if isinstance(value, (*_ATOMS, set, frozenset, bytearray)):
        return bool(value == kept)
    if isinstance(value, _SHARED) or len(seen) > _MOST:
        return False
    if isinstance(value, _GENERATORS):
        return pickle.dumps(value) == pickle.dumps(kept)
    seen.add(id(value))
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        if list(dict.keys(value)) != list(dict.keys(kept)):
            return False
        pairs += zip(dict.values(value), dict.values(kept), strict=True)
    elif isinstance(value, list | tuple | deque):
        if len(value) != len(kept):
            return False
        pairs += zip(value, kept, strict=True)
    mine, others = dict(_attributes(value)), dict(_attributes(kept))
    pairs += [(held, others.get(name)) for name, held in mine.items()]
    return mine.keys() == others.keys() and all(_same(one, other, seen) for one, other in pairs)


def _same_tensor(value: Tensor, kept: Tensor) -> bool:
    if value.shape != kept.shape or value.dtype != kept.dtype or value.device != kept.device:
        return False
    if value.requires_grad != kept.requires_grad or value.layout != kept.layout:
        return False
    a, b = value.detach(), kept.detach()
    if value.layout != torch.strided or value.is_nested:
        return False  # nothing to compare with cheaply: taken for changed, which costs a copy
    if torch.equal(a, b):
        return True
    return bool(((a == b) | ((a != a) & (b != b))).all())  # NaN is NaN
