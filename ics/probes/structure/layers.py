"""Finds the layers of a model by one forward pass, in the order in which they run."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import nn

from ics.errors import MeasurementWarning, UsageError
from ics.probes.hooks import Watch
from ics.probes.structure.grouping import Grouping
from ics.probes.structure.names import module_names, strip_prefixes
from ics.probes.structure.selection import Selection, select_layers
from ics.records import Layer

__all__ = ["Grouping", "Selection", "find_layers", "module_names", "select_layers", "strip_prefixes"]


def find_layers(model: nn.Module, run: Callable[[], object], *, grouping: Grouping = "paper") -> tuple[Layer, ...]:
    """Return the layers of a model in the order in which they run.

    A layer is a module that owns parameters, together with the normalisation that is given its output, unmodified:
    gamma and beta belong to the layer whose output they transform. A normalisation that follows no layer is one by
    itself. Parameters of a module that is never called, but used, belong to the nearest called module above it;
    shared ones to the layer that uses them first.

    Args:
        model: the model, wrapped or not.
        run: performs one forward pass of it. What the pass changes (buffers, random state) stays changed.
        grouping: "paper" as above, after Santurkar et al. 2018; "leaf" makes every module with parameters a layer.

    Returns:
        Layers named as in `state_dict`, wrapper prefixes stripped (the model itself is "(root)"); their `modules`
        and parameters as in `named_modules` and `named_parameters` of `model`, so that they can be looked up there.

    Cost: one forward pass.

    Raises:
        UsageError: `run` called no module of the model, or an unknown grouping.

    Example:
        >>> from torch import zeros
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
        >>> [(layer.name, layer.modules) for layer in find_layers(model, lambda: model(zeros(4, 2)))]
        [('0', ('0', '1')), ('3', ('3',))]
    """
    if grouping not in ("paper", "leaf"):
        raise UsageError(f'grouping is expected to be "paper" or "leaf", got {grouping!r}; type grouping="paper"')
    watch = Watch(model)
    try:
        watch.attach()
        run()
    finally:
        watch.detach()
    if watch.failure is not None:
        raise watch.failure
    if not watch.tracker.called:
        raise UsageError(
            f"run() is expected to call the {type(model).__name__}, but no module of it was called in this thread; "
            "type lambda: model(inputs)"
        )
    layers, idle = watch.layers(grouping)
    if idle:
        warnings.warn(
            f"the forward pass used no parameter of {', '.join(idle)}; they are in no layer",
            MeasurementWarning,
            stacklevel=2,
        )
    return layers
