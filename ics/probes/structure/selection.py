"""Choosing among layers: by glob, by class, by predicate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from ics.errors import SelectionError, UsageError, unknown_name
from ics.records import Layer

Selection = None | str | Sequence[str] | type | Callable[[Layer], bool]


def select_layers(layers: Sequence[Layer], selection: Selection = None) -> tuple[Layer, ...]:
    """Return the layers that a selection means, in the order given.

    Args:
        layers: what to choose from.
        selection: None for all; a name, a glob on names (`"features.*"`) or the name of a module class (`"Conv2d"`);
            several of those; a module class, subclasses included; or a predicate on `Layer`.

    Raises:
        SelectionError: a name, glob or class that no layer fits, with near matches, or a predicate that none fits.
        UsageError: anything else.

    Example:
        >>> from torch import nn, zeros
        >>> from ics.probes import find_layers
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> layers = find_layers(model, lambda: model(zeros(1, 2)))
        >>> [layer.name for layer in select_layers(layers, "[1-9]*")]
        ['2']
    """
    if selection is None:
        return tuple(layers)
    if isinstance(selection, str):
        return _named(layers, [selection])
    if isinstance(selection, type):
        kinds = {kind.__name__ for kind in _with_subclasses(selection)}
        return _matching(layers, lambda layer: layer.kind in kinds, f"is a {selection.__name__}")
    if callable(selection):
        return _matching(layers, selection, "satisfies the predicate")
    if isinstance(selection, Iterable):
        patterns = list(selection)
        if all(isinstance(pattern, str) for pattern in patterns):
            return _named(layers, patterns)
    raise UsageError(
        "a selection of layers is expected as a glob, a list of globs, a module class or a predicate, "
        f'got {selection!r}; type "features.*", nn.Conv2d or lambda layer: layer.num_parameters > 1000'
    )


def _named(layers: Sequence[Layer], patterns: Sequence[str]) -> tuple[Layer, ...]:
    chosen: set[int] = set()
    for pattern in patterns:
        fitting = {i for i, layer in enumerate(layers) if layer.kind == pattern or fnmatchcase(layer.name, pattern)}
        if not fitting:
            raise unknown_name("layer", pattern, [name for layer in layers for name in (layer.name, layer.kind)])
        chosen |= fitting
    return tuple(layer for i, layer in enumerate(layers) if i in chosen)


def _matching(layers: Sequence[Layer], fits: Callable[[Layer], bool], what: str) -> tuple[Layer, ...]:
    chosen = tuple(layer for layer in layers if fits(layer))
    if not chosen:
        raise SelectionError(f"no layer {what}; there are: {', '.join(layer.name for layer in layers[:8])}")
    return chosen


def _with_subclasses(kind: type) -> set[type]:
    children: list[type] = type.__subclasses__(kind)
    return {kind}.union(*(_with_subclasses(child) for child in children))
