"""One forward pass written down: its module calls, what they returned and changed, and when parameters were read."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ics.landscape.calls import NEVER, AttributeChange, BufferChange, Call, Forward
from ics.landscape.keeping import Kept, Tree, is_plain, keep, tensors_in
from ics.landscape.randomness import RandomState

_CONTAINERS = (list, dict, set, deque)
# What torch keeps in a module for itself, and `_flat_weights` and its references, which an RNN makes anew by itself.
_INTERNAL = (vars(nn.Module()).keys() - {"training"}) | {"forward", "_flat_weights", "_flat_weight_refs"}


class Recording:
    """The handler of the pass that is written down.

    Args:
        model: the model.
        random_state: any state of its generators: tells which there are.

    Attributes:
        calls: every call, in the order of entry.
        first_read: time at which each parameter was first read from the module that holds it, by name.
    """

    def __init__(self, model: nn.Module, random_state: RandomState) -> None:
        self.calls: list[Call] = []
        self.first_read: dict[str, int] = {}
        self._model = model
        self._changes_state = False
        self._changes_statistics = False
        self._statistics_are_read = False
        self._time = 0
        self._open: list[Call] = []
        self._kept: dict[tuple[int, int], Kept] = {}
        self._random = random_state

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note every reading of a parameter, through the dictionaries that modules look theirs up in.

        And every reading of running statistics by anyone but their own module.
        """
        names = {id(value): name for name, value in self._model.named_parameters()}

        def read(module: nn.Module, value: Tensor | None) -> None:
            if id(value) in names:
                self.first_read.setdefault(names[id(value)], self._time)
            elif not (self._open and self._open[-1].module is module):
                self._statistics_are_read = True

        watched: list[tuple[nn.Module, str, Mapping[str, Tensor | None]]]
        watched = [(module, "_parameters", module._parameters) for module in self._model.modules()]
        watched += [(module, "_buffers", module._buffers) for module in self._model.modules() if _is_norm(module)]
        try:
            for module, name, entries in watched:
                vars(module)[name] = _Watched(entries, functools.partial(read, module))
            yield
        finally:
            for module, name, entries in watched:
                vars(module)[name] = entries

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the call and write it down."""
        arguments = tensors_in(args, kwargs)
        plain = all(map(is_plain, arguments))
        versions = [argument._version for argument in arguments] if plain else []
        state, random_state = _State.of(module), self._random.now()
        self._time += 1
        call = Call(module, enter=self._time, num_arguments=len(arguments), repeatable=plain)
        self.calls.append(call)
        self._open.append(call)
        try:
            output = forward(*args, **kwargs)
        finally:
            self._open.pop()
            call.following = len(self.calls)
        self._time += 1
        call.exit = self._time
        now = self._random.now()
        call.random_state = None if now.equals(random_state) else now
        self._note_changes(call, state)
        if plain:
            call.result = keep(output, arguments, self._keep)
            call.writes = self._writes(call, arguments, versions)
        return output

    @property
    def carries_over(self) -> bool:
        """Whether the pass left something in buffers or attributes that the next micro-batch reads."""
        return self._changes_state or (self._changes_statistics and self._statistics_are_read)

    def settle(self, *, last_frontier: float) -> None:
        """End of the pass: give up copies that were not needed, and what no replay will hand back."""
        for kept in self._kept.values():
            kept.settle()
        self._kept.clear()
        for call in self.calls:
            if not call.precedes(last_frontier):
                call.result, call.writes, call.changes = None, (), []

    def frontier(self, names: Sequence[str]) -> float:
        """Return the time at which one of the parameters called `names` was first read; infinity if none was."""
        return min((self.first_read[name] for name in names if name in self.first_read), default=float("inf"))

    def reads_later(self, name: str, frontier: float) -> bool:
        """Return whether the parameter was not read before `frontier`."""
        return self.first_read.get(name, NEVER) >= frontier

    def release(self, frontier: float) -> None:
        """Free what lies inside calls that are handed back as a whole from now on."""
        position = 0
        while position < len(self.calls):
            call = self.calls[position]
            if not call.precedes(frontier):
                position += 1
                continue
            for inner in self.calls[position + 1 : call.following]:
                inner.result, inner.writes, inner.changes = None, (), []
            position = call.following

    def _keep(self, tensor: Tensor) -> Kept:
        key = (id(tensor), tensor._version)
        return self._kept.setdefault(key, self._kept.get(key) or Kept(tensor))

    def _writes(self, call: Call, arguments: Sequence[Tensor], versions: Sequence[int]) -> tuple[tuple[int, Kept], ...]:
        """Keep the arguments that the call wrote into, and note in what was kept of them before that it did."""
        written = []
        for position, (argument, version) in enumerate(zip(arguments, versions, strict=True)):
            if argument._version != version:
                written.append((position, self._keep(argument)))
                earlier = self._kept.get((id(argument), version))
                if earlier is not None and earlier.overwritten_until is None and call.precedes(call.exit):
                    earlier.overwritten_until = call.exit
        return tuple(written)

    def _note_changes(self, call: Call, before: _State) -> None:
        changes = list(before.changes(self._keep_attribute))
        if changes and _is_norm(call.module) and None not in changes:
            self._changes_statistics = True
        elif changes:
            self._changes_state = True
        if None in changes:
            for each in (call, *self._open):
                each.repeatable = False
        for each in (call, *self._open):
            each.changes.extend(change for change in changes if change is not None)

    def _keep_attribute(self, value: Any) -> Tree | None:
        return keep(value, (), self._keep)


@dataclass(frozen=True, slots=True)
class _State:
    """What a module holds in buffers and plain attributes, to tell what a call changed."""

    module: nn.Module
    buffers: Mapping[str, tuple[Tensor | None, int]]
    attributes: Mapping[str, Any]
    contents: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, module: nn.Module) -> _State:
        attributes = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
        return cls(
            module,
            {name: (value, _version(value)) for name, value in dict.items(module._buffers)},
            attributes,
            {name: _content(value) for name, value in attributes.items() if isinstance(value, _CONTAINERS)},
        )

    def changes(self, keep: Callable[[Any], Tree | None]) -> Iterator[BufferChange | AttributeChange | None]:
        """Yield what is different now; None for what cannot be done again."""
        now = _State.of(self.module)
        # F.batch_norm writes into the running statistics without counting a version.
        uncounted = _is_norm(self.module)
        for name, (value, version) in now.buffers.items():
            before, before_version = self.buffers.get(name, (None, 0))
            if value is not before or version != before_version or (uncounted and value is not None):
                kept = None if value is None else value.detach().clone()
                yield BufferChange(self.module, name, kept, in_place=value is before)
        if self.buffers.keys() - now.buffers.keys():
            yield None
        for name in self.attributes.keys() | now.attributes.keys():
            if name not in now.attributes:
                yield AttributeChange(self.module, name, None)
            elif name not in self.attributes or now.attributes[name] is not self.attributes[name]:
                tree = keep(now.attributes[name])
                yield None if tree is None else AttributeChange(self.module, name, tree)
            elif now.contents.get(name) != self.contents.get(name):
                yield None  # appended to a list, say: whoever else holds the list must see it too


class _Watched(dict[str, Any]):
    """A module's parameters or buffers; tells which are read."""

    def __init__(self, entries: Mapping[str, Any], read: Callable[[Tensor | None], None]) -> None:
        super().__init__(entries)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        self._read(value)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def items(self) -> Any:
        self._read_all()
        return super().items()

    def values(self) -> Any:
        self._read_all()
        return super().values()

    def _read_all(self) -> None:
        for value in super().values():
            self._read(value)


def _is_norm(module: nn.Module) -> bool:
    """A batch or instance normalisation whose running statistics do not enter what it returns."""
    return isinstance(module, _NormBase) and module.training


def _version(value: Tensor | None) -> int:
    return value._version if value is not None and is_plain(value) else 0


def _content(value: Any) -> tuple[int, ...]:
    items = (part for pair in value.items() for part in pair) if isinstance(value, dict) else value
    return tuple(id(item) for item in items)
