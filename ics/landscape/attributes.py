"""Plain attributes of modules as they were: hidden states, counters and caches, which no buffer holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ics.landscape.copies import changes, copied, same

# What torch keeps in a module for itself; `training` too: evaluations run in the mode that the model is in.
_INTERNAL = vars(nn.Module()).keys() | {"forward", "_flat_weights", "_flat_weight_refs"}
# Wrappers of several processes or of a compiler keep what they have set up, which must not be set up twice.
_WRAPPERS = ("torch.nn.parallel", "torch.distributed", "torch._dynamo")
_ABSENT = object()


class AttributeSnapshot:
    """The plain attributes of modules at one moment, and what has changed in them since.

    Only what changed is put back, so a model that keeps no state is evaluated as it is.

    Args:
        modules: whose attributes.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1)
        >>> model.h = torch.zeros(1)
        >>> snapshot = AttributeSnapshot([model])
        >>> model.h = model.h + 1
        >>> snapshot.note_changes()
        >>> snapshot.put_back()
        >>> model.h
        tensor([0.])
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._memo: dict[int, Any] = {}
        self._kept = [(module, type(module), self._of(module)) for module in modules if not _is_wrapper(module)]
        self._changed: list[tuple[nn.Module, str, Any]] = []
        self.noted = False

    def note_changes(self) -> None:
        """Look, once, for what was assigned, written into or deleted since the snapshot."""
        if self.noted:
            return
        self.noted = True
        for module, kind, kept in self._kept:
            if type(module) is not kind:  # a lazy module that has become another
                continue
            present = vars(module)
            for name in present.keys() - kept.keys() - _INTERNAL:
                self._changed.append((module, name, _ABSENT))
            for name, (value, copy) in kept.items():
                now = present.get(name, _ABSENT)
                if not ((now is value and copy is value) or same(now, copy)):
                    self._changed.append((module, name, copy))

    def put_back(self) -> None:
        """Assign what was there, in copies of its own, wherever something had changed when changes were noted."""
        memo: dict[int, Any] = {}
        for module, name, copy in self._changed:
            if copy is _ABSENT:
                vars(module).pop(name, None)
            else:
                vars(module)[name] = copied(copy, memo=memo, whole=False)

    def undo(self) -> None:
        """Note what has changed and put it back for good, tensors in place: others may hold them too."""
        self.note_changes()
        for module, name, copy in self._changed:
            now = vars(module).get(name)
            if isinstance(now, Tensor) and isinstance(copy, Tensor) and now.shape == copy.shape:
                now.detach().copy_(copy)
            elif copy is _ABSENT:
                vars(module).pop(name, None)
            else:
                vars(module)[name] = copied(copy, whole=False)

    def _of(self, module: nn.Module) -> Mapping[str, tuple[Any, Any]]:
        return {
            name: (value, copied(value, memo=self._memo, whole=False) if changes(value) else value)
            for name, value in vars(module).items()
            if name not in _INTERNAL
        }


def _is_wrapper(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_WRAPPERS)
