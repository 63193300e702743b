"""Other values in a model's place, for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

from torch import Tensor, nn

from ics.errors import unknown_name

Place = tuple[dict[str, Any], str]


@contextmanager
def substituted(
    model: nn.Module, values: Mapping[str, Tensor], *, places: Mapping[str, Sequence[Place]] | None = None
) -> Iterator[None]:
    """Let the model use `values` for its parameters and buffers of those names; its own come back at the end.

    Entries of the modules' dictionaries are exchanged, everywhere a shared tensor is used, and no tensor is written
    to: a parameter keeps its identity, its `.grad` and every bit. Adding and subtracting an update instead would
    change 16 % of float32 weights.

    Args:
        model: the model.
        values: tensors by name, as in `named_parameters` and `named_buffers`.
        places: `tensor_places(model)`, where it is known already.

    Raises:
        SelectionError: a name that is no parameter or buffer of the model.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1, bias=False)
        >>> with substituted(model, {"weight": torch.full((1, 1), 3.0)}):
        ...     float(model(torch.ones(1, 1)))
        3.0
    """
    places = tensor_places(model) if places is None else places
    for name in values:
        if name not in places:
            raise unknown_name("parameter or buffer", name, places)
    exchanged = [(entries, key, entries[key]) for name in values for entries, key in places[name]]
    try:
        for name, value in values.items():
            for entries, key in places[name]:
                entries[key] = value
        yield
    finally:
        for entries, key, original in exchanged:
            entries[key] = original


@contextmanager
def attributes_kept(model: nn.Module, *, modules: Iterable[nn.Module] | None = None) -> Iterator[None]:
    """Put back what a forward pass assigns to a module's plain attributes: counters, caches, moving averages.

    Only assignments are undone; a list or tensor that the pass writes into keeps what was written.

    Args:
        model: the model.
        modules: `model.modules()`, where they are known already.
    """
    # References to the attributes, not copies: assignments are seen by identity, at the cost of a dictionary a module.
    kept = [(module, dict(vars(module))) for module in (model.modules() if modules is None else modules)]
    try:
        yield
    finally:
        for module, attributes in kept:
            if not _same(vars(module), attributes):
                vars(module).clear()
                vars(module).update(attributes)


def tensor_places(model: nn.Module) -> dict[str, list[Place]]:
    """Return where each parameter and buffer sits, under its first name: shared ones sit in several places."""
    # By identity: `named_parameters` gives a shared tensor once, under its first name.
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    places: dict[str, list[Place]] = {name: [] for name in names.values()}
    for module in model.modules():
        for entries in (module._parameters, module._buffers):
            for key, tensor in entries.items():
                if tensor is not None:
                    places[names[id(tensor)]].append((entries, key))
    return places


def _same(now: Mapping[str, Any], then: Mapping[str, Any]) -> bool:
    return now.keys() == then.keys() and all(map(is_, now.values(), then.values()))
