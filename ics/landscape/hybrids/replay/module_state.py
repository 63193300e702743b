"""What module calls change besides what they return: buffers and attributes, and what attributes hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ics.landscape.hybrids.replay.kept_values import Kept, Tree, is_plain

Keep = Callable[[Any], Tree | None]

# What torch keeps in a module for itself, and what an RNN makes anew by itself when its weights are exchanged.
_INTERNAL = (vars(nn.Module()).keys() - {"training"}) | {"forward", "_flat_weights", "_flat_weight_refs"}
_OPAQUE = (nn.Module, type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
_PLAIN = frozenset({int, float, bool, str, type(None)})
_DEPTH = 4
_MOST = 500
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class BufferChange:
    """A buffer was written into, or another tensor (or None) was put in its place."""

    module: nn.Module
    name: str
    value: Tensor | None
    in_place: bool

    def apply(self, hand_out: Callable[[Kept], Tensor]) -> None:
        """Do it again, with a copy of the value: a later call may write further."""
        # In place where it was in place: others may hold the same tensor.
        buffers = self.module._buffers
        present = buffers[self.name]
        if self.in_place and present is not None and self.value is not None:
            with torch.no_grad():
                present.copy_(self.value)
        else:
            buffers[self.name] = None if self.value is None else self.value.clone()


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """An attribute was assigned, or deleted (value None)."""

    module: nn.Module
    name: str
    value: Tree | None

    def apply(self, hand_out: Callable[[Kept], Tensor]) -> None:
        """Do it again."""
        if self.value is None:
            vars(self.module).pop(self.name, None)
        else:
            vars(self.module)[self.name] = self.value.rebuild((), hand_out)


Change = BufferChange | AttributeChange


class StateLog:
    """Tells what has changed in modules since it was last asked."""

    def __init__(self, model: nn.Module) -> None:
        self._states = {module: _State.of(module) for module in model.modules()}

    def changes(self, modules: Iterable[nn.Module], *, keep: Keep) -> Iterator[Change | None]:
        """Yield what has changed in these modules; None for what cannot be done again.

        Args:
            modules: the modules to compare with their last state.
            keep: how values of attributes are kept. Not an attribute of the log: a recording that held a log that held
                a method of the recording would be freed, with all it keeps, only when Python next collects cycles.
        """
        for module in modules:
            before = self._states[module]
            if not before.holds_for(module):
                now = self._states[module] = _State.of(module)
                yield from self._differences(module, before, now, keep)

    def _differences(self, module: nn.Module, before: _State, now: _State, keep: Keep) -> Iterator[Change | None]:
        for name, (value, version) in now.buffers.items():
            earlier, earlier_version = before.buffers.get(name, (None, 0))
            if value is not earlier or version != earlier_version:
                kept = None if value is None else value.detach().clone()
                yield BufferChange(module, name, kept, in_place=value is earlier)
        if before.buffers.keys() - now.buffers.keys():
            yield None
        for name in before.attributes.keys() | now.attributes.keys():
            if name not in now.attributes:
                yield AttributeChange(module, name, None)
            elif name not in before.attributes or now.attributes[name] is not before.attributes[name]:
                tree = keep(now.attributes[name])
                yield None if tree is None else AttributeChange(module, name, tree)
            elif name in now.contents and not _same(now.contents[name], before.contents[name]):
                yield None  # appended to a list, say: whoever else holds the list must see it too


class BufferValues:
    """Values of a module's buffers before a call, to find writes that torch counts no version for.

    `F.batch_norm` writes into running statistics like that, and code that goes through `.data`.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._values = {
            name: (value, value._version, value if is_norm(module) else value.detach().clone())
            for name, value in dict.items(module._buffers)
            if value is not None and is_plain(value)
        }

    def uncounted(self) -> Iterator[BufferChange]:
        """Yield the buffers that hold other values now, although their version is the same."""
        for name, (value, version, before) in self._values.items():
            # `dict.get`, since a watched dictionary would take the question for a reading by the model.
            unseen = value is dict.get(self._module._buffers, name) and value._version == version
            if unseen and (is_norm(self._module) or not torch.equal(value, before)):
                yield BufferChange(self._module, name, value.detach().clone(), in_place=True)


@dataclass(frozen=True, slots=True)
class _State:
    """Buffers with their versions, plain attributes, and what those of them contain that can contain something."""

    size: int
    buffers: Mapping[str, tuple[Tensor | None, int]]
    attributes: Mapping[str, Any]
    contents: Mapping[str, list[Any]]

    @classmethod
    def of(cls, module: nn.Module) -> _State:
        attributes = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
        return cls(
            len(vars(module)),
            {name: (value, _version(value)) for name, value in dict.items(module._buffers)},
            attributes,
            {name: _content(value) for name, value in attributes.items() if type(value) not in _PLAIN},
        )

    def holds_for(self, module: nn.Module) -> bool:
        """Return whether nothing has changed."""
        attributes, buffers = vars(module), module._buffers
        if len(attributes) != self.size or len(buffers) != len(self.buffers):
            return False
        for name, value in self.attributes.items():
            if attributes.get(name, _ABSENT) is not value:
                return False
        for name, (buffer, version) in self.buffers.items():
            if dict.get(buffers, name, _ABSENT) is not buffer or _version(buffer) != version:
                return False
        return all(_same(_content(attributes[name]), content) for name, content in self.contents.items())


def is_norm(module: nn.Module) -> bool:
    """Whether it is a batch or instance normalisation whose running statistics do not enter what it returns."""
    return isinstance(module, _NormBase) and module.training


def _content(value: Any) -> list[Any]:
    """Return an object and all it contains, and the versions of tensors, to compare with what it contains later.

    The objects themselves, not their ids: as long as they are held, no other object has their place in memory.
    """
    found, depths = [value], [0]
    for place, depth in zip(found, depths, strict=True):  # both grow while they are walked
        if depth < _DEPTH and len(found) < _MOST and not isinstance(place, (*_OPAQUE, Tensor)):
            inside = _parts(place)
            found.extend(inside)
            depths.extend([depth + 1] * len(inside))
    return found + [part._version for part in found if isinstance(part, Tensor) and is_plain(part)]


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, list | tuple | set | frozenset | deque):
        return list(value)
    return list(getattr(value, "__dict__", {}).values())


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(map(_is, a, b))


def _is(a: Any, b: Any) -> bool:
    return a is b or (type(a) is int and type(b) is int and a == b)


def _version(value: Tensor | None) -> int:
    return value._version if value is not None and is_plain(value) else 0
