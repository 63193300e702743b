"""Batches as a user's loop has them: nested tuples, lists and mappings of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def copy_batch(batch: Any) -> Any:
    """Return `batch` with every tensor cloned: a loader may reuse its buffers for the next one."""
    if isinstance(batch, Tensor):
        return batch.detach().clone()
    if isinstance(batch, Mapping):
        return type(batch)({key: copy_batch(value) for key, value in batch.items()})  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(copy_batch(value) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(copy_batch(value) for value in batch)
    return batch


def holds_micro_batches(batch: Any) -> bool:
    """Return whether `batch` is a list of micro-batches rather than one batch.

    A list whose members are themselves tuples, lists or mappings is one; the `[x, y]` of torch's default collate,
    whose members are tensors, is not. `Recorder.step(batch, micro_batches=...)` overrules this.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(4, 2), torch.zeros(4)
        >>> holds_micro_batches([x, y]), holds_micro_batches([(x, y), (x, y)])
        (False, True)
    """
    return type(batch) is list and bool(batch) and all(isinstance(part, tuple | list | Mapping) for part in batch)
