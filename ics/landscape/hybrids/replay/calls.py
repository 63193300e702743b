"""The calls of a model's modules in one pass, and how they are intercepted without hooks."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ics.landscape.hybrids.replay.kept_values import Kept, Tree
from ics.landscape.hybrids.replay.module_state import AttributeChange, Change
from ics.landscape.random_state import RandomState

Forward = Callable[..., Any]
Handler = Callable[[nn.Module, Forward, tuple[Any, ...], Mapping[str, Any]], Any]

NEVER = sys.maxsize
_ABSENT = object()


class ReplayError(Exception):
    """The model cannot be replayed call by call."""


@dataclass(eq=False, slots=True)
class Call:
    """One call of a module. Times count the entries to and exits from calls.

    Attributes:
        module: the module that was called.
        enter: time of entry.
        exit: time of exit; `NEVER` where the call ended in an exception.
        following: position of the next call that is not inside this one.
        num_arguments: tensors among its arguments.
        result: what it returned; None if that cannot be handed back.
        writes: position and final value of every argument that it wrote into.
        changes: what buffers and attributes of modules were changed to while it ran.
        random_state: the generators at its exit; None if it drew nothing.
        repeatable: whether all it did besides returning is known and can be done again without running it.
    """

    module: nn.Module
    enter: int
    exit: int = NEVER
    following: int = 0
    num_arguments: int = 0
    result: Tree | None = None
    writes: tuple[tuple[int, Kept], ...] = ()
    changes: list[Change] = field(default_factory=list)
    random_state: RandomState | None = None
    repeatable: bool = True

    def kept(self) -> Iterator[Kept]:
        """Yield all tensors that handing the call back needs."""
        trees = [self.result, *(change.value for change in self.changes if isinstance(change, AttributeChange))]
        for tree in trees:
            yield from (leaf for leaf in (tree.leaves if tree is not None else ()) if isinstance(leaf, Kept))
        yield from (kept for _, kept in self.writes)

    def forget(self) -> None:
        """Free what was kept: the call runs for real from now on."""
        self.result, self.writes, self.changes = None, (), []

    def precedes(self, frontier: float) -> bool:
        """Return whether the call was over at `frontier` and can be replaced by what it returned."""
        return self.exit <= frontier and self.repeatable and self.result is not None


class Interception:
    """Lets a handler stand in for the `forward` of every module of a model.

    `forward` is set on the instances, and what they had before is put back at the end. No hooks are used: hooks of
    the user fire as always, before and after the stand-in.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handler: Handler | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put the stand-ins in place. They call the original `forward` as long as no handler is active."""
        before: list[tuple[dict[str, Any], Any]] = []
        try:
            for module in self._model.modules():
                attributes = vars(module)
                stand_in = self._stand_in(module, module.forward)
                before.append((attributes, attributes.get("forward", _ABSENT)))
                attributes["forward"] = stand_in  # on the instance: a class may have other instances, in other models
            yield
        finally:
            for attributes, forward in before:
                attributes.pop("forward", None)
                if forward is not _ABSENT:
                    attributes["forward"] = forward

    @contextmanager
    def handled_by(self, handler: Handler) -> Iterator[None]:
        """Let `handler(module, forward, args, kwargs)` answer the calls of a forward pass.

        Not those of the backward pass after it, in which activation checkpointing calls modules again.
        """
        self._handler = handler
        try:
            yield
        finally:
            self._handler = None

    def _stand_in(self, module: nn.Module, forward: Forward) -> Forward:
        @functools.wraps(forward)
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            if self._handler is None:
                return forward(*args, **kwargs)
            return self._handler(module, forward, args, kwargs)

        return stand_in
