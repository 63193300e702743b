"""One forward pass written down: its module calls, what they returned and changed, and when parameters were read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from ics.landscape.hybrids.replay.calls import NEVER, Call, Forward, ReplayError
from ics.landscape.hybrids.replay.kept_values import Kept, Tree, is_plain, keep, tensors_in
from ics.landscape.hybrids.replay.module_state import BufferChange, BufferValues, Change, StateLog, is_norm
from ics.landscape.random_state import RandomState


class Recording:
    """The handler of the pass that is written down.

    Args:
        model: the model.
        random_state: any state of its generators: tells which there are.
        copied: take copies of what the pass may overwrite; without, such a recording tells of a pass, and cannot be
            replayed.
        retention: what to keep of a pass that was recorded before; default everything.

    Attributes:
        calls: every call, in the order of entry.
        first_read: time at which each parameter was first read from the module that holds it, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        random_state: RandomState,
        *,
        copied: bool = True,
        retention: Retention | None = None,
    ) -> None:
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
        self._copied, self._retention = copied, retention
        self._copying = copied
        self._overwritten: frozenset[int] = frozenset()
        self._inside: dict[nn.Module, tuple[nn.Module, ...]] = {}
        self._state = StateLog(model)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note every reading of a parameter, through the dictionaries that modules look theirs up in.

        And every reading of running statistics by anyone but their own module.
        """
        names = {id(value): name for name, value in self._model.named_parameters()}
        # Readings and not calls of modules: a parent may read a child's weight without ever calling the child, and
        # replays are exact only if the frontier is the first reading by anyone.

        def read(module: nn.Module, value: Tensor | None) -> None:
            if id(value) in names:
                self.first_read.setdefault(names[id(value)], self._time)
            elif not (self._open and self._open[-1].module is module):
                self._statistics_are_read = True

        watched: list[tuple[nn.Module, str, Mapping[str, Tensor | None]]]
        watched = [(module, "_parameters", module._parameters) for module in self._model.modules()]
        watched += [(module, "_buffers", module._buffers) for module in self._model.modules() if is_norm(module)]
        try:
            for module, name, entries in watched:
                vars(module)[name] = Watched(entries, functools.partial(read, module))
            yield
        finally:
            for module, name, entries in watched:
                vars(module)[name] = entries

    def __call__(self, module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the call and write it down."""
        arguments = tensors_in(args, kwargs)
        plain = all(map(is_plain, arguments))
        versions = [argument._version for argument in arguments] if plain else []
        # What changed since the last call is the doing of code between calls, in the modules that are running now.
        self._note(self._state.changes(self._reachable(module), keep=self._keep_attribute))
        for outer in self._open if _has_hooks(module) else ():
            outer.repeatable = False  # or the hook would not fire
        values, random_state = BufferValues(module), self._random.now()
        self._time += 1
        call = Call(module, enter=self._time, num_arguments=len(arguments), repeatable=plain)
        position = len(self.calls)
        self.calls.append(call)
        self._open.append(call)
        try:
            output = forward(*args, **kwargs)
            self._note(values.uncounted())
            self._note(self._state.changes(self._reachable(module), keep=self._keep_attribute))
        finally:
            self._open.pop()
            call.following = len(self.calls)
        self._time += 1
        call.exit = self._time
        now = self._random.now()
        call.random_state = None if now.equals(random_state) else now
        if plain and (self._retention is None or position not in self._retention.dropped):
            self._copying = self._copied if self._retention is None else position in self._retention.overwritten
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
        if self._retention is not None and any(kept.lost for kept in self._kept.values()):
            raise ReplayError("it writes into a tensor that it left alone before")
        self._kept.clear()
        for call in self.calls:
            if not call.precedes(last_frontier) or _views_overwritten(call):
                call.forget()
        if not self._copied:
            self._forget_values()

    def frontier(self, names: Sequence[str]) -> float:
        """Return the time at which one of the parameters called `names` was first read; infinity if none was."""
        return min((self.first_read[name] for name in names if name in self.first_read), default=float("inf"))

    def reads_later(self, name: str, frontier: float) -> bool:
        """Return whether the parameter was not read before `frontier`."""
        return self.first_read.get(name, NEVER) >= frontier

    def release(self, frontier: float) -> None:
        """Free what lies inside calls that are handed back as a whole from now on."""
        for position, call in outermost(self.calls, frontier):
            for inner in self.calls[position + 1 : call.following]:
                inner.forget()

    def once_more(self, *, first: float, last: float) -> Recording:
        """Return a recording for the same pass that keeps what replays from `first` to `last` need."""
        retention = Retention.of(self.calls, overwritten=self._overwritten, first=first, last=last)
        return Recording(self._model, self._random, retention=retention)

    def _forget_values(self) -> None:
        """Free all values: what is left tells what to keep when the pass is run again."""
        overwritten = [any(kept.overwritten for kept in call.kept()) for call in self.calls]
        self._overwritten = frozenset(position for position, found in enumerate(overwritten) if found)
        for call in self.calls:
            if call.result is not None:
                call.forget()
                call.result = Tree((), None)  # not None: the call can be handed back, in a recording that has values

    def _keep_attribute(self, value: Any) -> Tree | None:
        self._copying = self._copied  # a retention names calls, and says nothing of attributes
        return keep(value, (), self._keep)

    def _keep(self, tensor: Tensor) -> Kept:
        # A tensor that several calls return or hold is kept once per version, so that a replay hands out one object.
        key = (id(tensor), tensor._version)
        return self._kept.setdefault(key, self._kept.get(key) or Kept(tensor, copied=self._copying))

    def _writes(self, call: Call, arguments: Sequence[Tensor], versions: Sequence[int]) -> tuple[tuple[int, Kept], ...]:
        """Keep the arguments that the call wrote into, and note in what was kept of them before that it did."""
        written = []
        for position, (argument, version) in enumerate(zip(arguments, versions, strict=True)):
            if argument._version != version:
                written.append((position, self._keep(argument)))
                # A replay that hands this call back hands back what it wrote, too, and what was kept of the argument
                # from before needs no copy: nobody writes into it for real.
                earlier = self._kept.get((id(argument), version))
                if earlier is not None and earlier.overwritten_until is None and call.precedes(call.exit):
                    earlier.overwritten_until = call.exit
        return tuple(written)

    def _note(self, changes: Iterable[Change | None]) -> None:
        """Write changes down for every call that is open; calls during which something else changed must run again."""
        for change in changes:
            for call in self._open:
                if change is None:
                    call.repeatable = False
                else:
                    call.changes.append(change)
            # Running statistics of a normalisation in training mode are written in every pass, and enter no output:
            # alone, they do not keep the next micro-batch from being replayed, unless somebody else reads them.
            if isinstance(change, BufferChange) and is_norm(change.module):
                self._changes_statistics = True
            else:
                self._changes_state = True

    def _reachable(self, module: nn.Module) -> dict[nn.Module, None]:
        """Return the modules whose state a call may well change: those inside it, and those that are running."""
        if module not in self._inside:
            self._inside[module] = tuple(module.modules())
        return dict.fromkeys((*self._inside[module], *(call.module for call in self._open)))


@dataclass(frozen=True)
class Retention:
    """What to keep of a pass that was recorded before, by the positions of its calls.

    Attributes:
        dropped: calls that no replay hands back, or that lie inside one that is: nobody sees what they returned.
        overwritten: calls that returned or wrote what was overwritten later: copies are needed.
    """

    dropped: frozenset[int]
    overwritten: frozenset[int]

    @classmethod
    def of(cls, calls: Sequence[Call], *, overwritten: frozenset[int], first: float, last: float) -> Retention:
        """Return what all frontiers from `first` to `last` need of a pass with these calls."""
        dropped = {position for position, call in enumerate(calls) if not call.precedes(last)}
        for position, call in outermost(calls, first):
            dropped.update(range(position + 1, call.following))
        return cls(frozenset(dropped), overwritten)


def outermost(calls: Sequence[Call], frontier: float) -> Iterator[tuple[int, Call]]:
    """Yield position and call of what is handed back at `frontier` and lies in nothing that is handed back."""
    position = 0
    while position < len(calls):
        call = calls[position]
        if call.precedes(frontier):
            yield position, call
            position = call.following
        else:
            position += 1


class Watched(dict[str, Any]):
    """A module's parameters or buffers; tells which are read."""

    def __init__(self, entries: Mapping[str, Any], read: Callable[[Tensor | None], None]) -> None:
        super().__init__(entries)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        self._read(value)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """Read one, if it is there."""
        try:
            return self[name]
        except KeyError:
            return default

    def items(self) -> Any:
        """Read all, with their names."""
        self._read_all()
        return super().items()

    def values(self) -> Any:
        """Read all."""
        self._read_all()
        return super().values()

    def _read_all(self) -> None:
        for value in super().values():
            self._read(value)


def _has_hooks(module: nn.Module) -> bool:
    own = module._forward_hooks or module._forward_pre_hooks
    return bool(own or global_hooks._global_forward_hooks or global_hooks._global_forward_pre_hooks)


def _views_overwritten(call: Call) -> bool:
    """Whether a write into one tensor of the call must show in another that views the same memory."""
    found = dict.fromkeys(call.kept())
    return any(kept.overwritten for kept in found) and len({kept.memory for kept in found}) < len(found)
