"""The user's inputs: models, wrapped or compiled, and batches as a training loop has them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or the model itself; both share parameters and buffers."""
    return getattr(model, "_orig_mod", model)


def forced_eager() -> AbstractContextManager[object]:
    """Return a context in which compiled code runs eagerly.

    Compiled code ignores hooks added after the first call. It even ignores earlier ones if an identical model was
    compiled before in the same process. In this context hooks fire; outside it the compiled code is used again. A model
    cannot tell whether a function that calls it was compiled, so this only checks whether a compiler is loaded at all.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def copy_batch(batch: Any) -> Any:
    """Return `batch` with every tensor cloned: a loader may reuse its buffers for the next one."""
    if isinstance(batch, Tensor):
        return batch.detach().clone()
    if isinstance(batch, Mapping):
        return type(batch)({key: copy_batch(value) for key, value in batch.items()})  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a namedtuple takes its fields one by one
        return type(batch)(*(copy_batch(value) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(copy_batch(value) for value in batch)
    return batch


def holds_micro_batches(batch: Any) -> bool:
    """Return whether `batch` is a list of micro-batches rather than one batch.

    A list whose members are themselves tuples, lists or mappings holds micro-batches. The `[x, y]` of torch's default
    collate, whose members are tensors, does not. `Recorder.step(batch, micro_batches=...)` overrides this.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(4, 2), torch.zeros(4)
        >>> holds_micro_batches([x, y]), holds_micro_batches([(x, y), (x, y)])
        (False, True)
    """
    return type(batch) is list and bool(batch) and all(isinstance(part, tuple | list | Mapping) for part in batch)


def feed(model: nn.Module, batch: Any) -> object:
    """Call the model on a batch without a loss function: see `activation_stats`."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple | list):
        return model(batch[0])
    return model(batch)
