"""What a module call returned, kept so that it can be handed back without being spoiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

_PLAIN = (int, float, complex, str, bytes, type(None), Enum, slice, torch.dtype, torch.device, torch.Size)


class Kept:
    """A tensor as it was at one moment of a pass.

    While the pass goes on the tensor may be overwritten in place, as `out += identity` and in-place activations do.
    So a copy is taken, and given up at the end of the pass if the tensor itself was left alone.

    Args:
        original: the tensor.
        copied: take a copy; without it the values are lost if the tensor is overwritten.

    Attributes:
        tensor: the values, without graph; set by `settle`.
        overwritten: whether the pass wrote into the tensor later on: then replays will too, and get copies.
        memory: where the tensor's storage was; views of one another have it in common.
        overwritten_until: end of the call that wrote into it; None if code between calls did, or nobody.
        lost: whether the values were overwritten and there is no copy.
    """

    def __init__(self, original: Tensor, *, copied: bool = True) -> None:
        self.tensor = _copy(original) if copied else original
        self.lost = False
        self.overwritten = False
        self.overwritten_until: int | None = None
        self.memory = _memory(original)
        self._original: Tensor | None = original
        self._version = original._version
        self._copied = copied

    def settle(self) -> None:
        """End of the pass: keep the tensor itself if it still holds the values, else the copy."""
        assert self._original is not None
        # torch counts the writes into a tensor, through all its views. A copy of every output would double the memory
        # of the pass, so copies live only until it is certain who wrote where.
        self.overwritten = self._original._version != self._version
        self.lost = self.overwritten and not self._copied
        if not self.overwritten:
            self.tensor = self._original.detach()
        self._original = None  # it holds the graph of the whole pass

    def needs_copy(self, frontier: float) -> bool:
        """Return whether a pass that runs for real from `frontier` on writes into this tensor."""
        until = self.overwritten_until
        return self.overwritten and (until is None or until > frontier)

    def alias(self) -> Tensor:
        """Return another tensor with the same memory, and a version of its own."""
        return self.tensor.data  # `detach()` would share the version, and a write in one replay would show in all

    def copy(self) -> Tensor:
        """Return a copy with the same strides."""
        return _copy(self.tensor)


@dataclass(frozen=True, slots=True)
class Argument:
    """Stands for a tensor that a call returned as it was given it: an in-place activation, an identity."""

    position: int


@dataclass(frozen=True, slots=True)
class Tree:
    """Nested containers with their tensors replaced by `Kept` or `Argument`."""

    leaves: tuple[Any, ...]
    shape: pytree.TreeSpec | None  # None for a single leaf

    def rebuild(self, arguments: Sequence[Tensor], hand_out: Callable[[Kept], Tensor]) -> Any:
        """Return the containers anew, tensors handed out by `hand_out` or taken from the call's own arguments."""
        leaves = [
            arguments[leaf.position]
            if isinstance(leaf, Argument)
            else hand_out(leaf)
            if isinstance(leaf, Kept)
            else leaf
            for leaf in self.leaves
        ]
        return leaves[0] if self.shape is None else pytree.tree_unflatten(leaves, self.shape)


def tensors_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return all tensors among the arguments of a call, nested ones too, in a fixed order."""
    if not kwargs and len(args) == 1 and isinstance(args[0], Tensor):
        return [args[0]]  # by far the most frequent
    return [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]


def keep(value: Any, arguments: Sequence[Tensor], kept: Callable[[Tensor], Kept]) -> Tree | None:
    """Return `value` with its tensors kept; None for what cannot be handed back faithfully.

    That is: an object that is neither container, tensor nor plain value; a tensor of an unusual kind; and a view of
    an argument, which must stay one (views cost nothing to make again).
    """
    leaves, shape = ([value], None) if isinstance(value, Tensor) else pytree.tree_flatten(value)
    positions = {id(argument): position for position, argument in enumerate(arguments)}
    memory = {_memory(argument) for argument in arguments if is_plain(argument)}
    found: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor) and id(leaf) in positions:
            found.append(Argument(positions[id(leaf)]))
        elif isinstance(leaf, Tensor) and is_plain(leaf) and (not leaf.numel() or _memory(leaf) not in memory):
            found.append(kept(leaf))
        elif isinstance(leaf, _PLAIN):
            found.append(leaf)
        else:
            return None
    return Tree(tuple(found), shape)


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is an ordinary strided one whose versions are counted."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_inference()


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _copy(tensor: Tensor) -> Tensor:
    """Copy values and strides: another layout could choose another kernel, which rounds differently."""
    copied = tensor.detach().clone()
    if copied.stride() != tensor.stride() and 0 not in tensor.stride():
        copied = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
        copied.copy_(tensor.detach())
    return copied
