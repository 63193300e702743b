"""The user's inputs: models, wrapped or compiled, and batches as a training loop has them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from ics.errors import UsageError
from ics.landscape.copies import copied
from ics.landscape.extra_parameters import ExtraParameters
from ics.recording.loss_modules import modules_of_loss


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
    """Return `batch` as it is now, whatever it is made of: loops write into it, and loaders reuse its buffers."""
    return copied(batch)


def readable_twice(batch: Any, *, replays: bool) -> Any:
    """Return the batch; None for an iterator, which nobody but the user's loop may read.

    Args:
        batch: as it was handed in.
        replays: whether an instrument runs the model on the batch again.

    Raises:
        UsageError: an iterator where an instrument runs the model on the batch again.
    """
    parts = batch if type(batch) in (tuple, list) else (batch,)
    if not any(hasattr(type(part), "__next__") and not hasattr(type(part), "__getitem__") for part in parts):
        return batch
    if replays:
        raise UsageError(
            f"recorder.step expects a batch that can be read twice, got an iterator ({type(batch).__name__}); "
            "type batch = next(iterator) before the block, or list(iterator) for micro-batches"
        )
    return None


def extra_parameters_of(
    model: nn.Module, loss_fn: Any, given: Mapping[str, nn.Module | nn.Parameter] | None, optimizers: Iterable[Any]
) -> ExtraParameters:
    """Return the parameters that the loss has beside the model: named by the user, its own, or its optimizers'.

    Raises:
        UsageError: `given` is no mapping from names to modules and parameters.
    """
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(
            f"extra_parameters expects names with modules or parameters, got {type(given).__name__}; "
            'type extra_parameters={"criterion": criterion}'
        )
    named = dict(given or {})
    if isinstance(loss_fn, nn.Module):
        named.setdefault("loss_fn", loss_fn)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    trained = [each for group in groups for each in group["params"]]
    return ExtraParameters(named, model=model, used=modules_of_loss(loss_fn), trained=trained)


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
