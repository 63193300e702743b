"""Numbers of all parameters of a model at a step, in one go: no clone of a gradient, each value read once.

The way for float32 on a CPU, by the kernels of `ics.stats.parameters`. Whatever these do not take (other types and
devices, sparse gradients, subclasses of tensors, no numba) is left to `ics.probes.parameters.rows.parameter_block`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ics import stats
from ics.stats.parameters import (
    ChangeMeasurer,
    GradientMeasurer,
    GradientStatistics,
    changes_of,
    extents_of,
    gradients_of,
    is_taken,
)


@dataclass(frozen=True, slots=True)
class GradientNumbers:
    """Statistics of the gradients.

    Attributes:
        place: number of the gradient of each parameter that has one, in the statistics.
        has_channels: of each, whether its statistics are per channel.
        per_channel: whether those of gradients with two axes or more are.
        statistics: None where no parameter has a gradient.
    """

    place: Mapping[str, int]
    has_channels: Sequence[bool]
    per_channel: bool
    statistics: GradientStatistics | None

    @property
    def squares(self) -> float | None:
        """Sum of squares of all gradients; None without any."""
        return None if self.statistics is None else float(self.statistics.squares.sum())


@dataclass(frozen=True, slots=True)
class ParameterNumbers:
    """Numbers of all parameters at a step, on the host.

    Attributes:
        place: number of each parameter.
        squares: (n,), ||W(t)||^2.
        changes: (n,), ||W(t+1) - W(t)||^2.
        gradients: of the gradients that the optimizer used.
    """

    place: Mapping[str, int]
    squares: np.ndarray
    changes: np.ndarray
    gradients: GradientNumbers


class ParameterWatch:
    """The parameters of a model from step to step: which they are, their values before the step, their numbers.

    What depends on the names and shapes is worked out once, and again when the model is found changed.

    Args:
        model: the model.
        beside: parameters that are trained with it, a criterion's say, by names of their own.
    """

    def __init__(self, model: nn.Module, *, beside: Mapping[str, nn.Parameter] | None = None) -> None:
        self._model = model
        self._beside = dict(beside or {})
        self._dicts: list[dict[str, Any]] = []
        self._held: tuple[int, ...] = ()
        self._kept_alive: list[Any] = []  # or an id could be that of a newer object
        self._named: dict[str, nn.Parameter] = {}
        self._copies: tuple[list[Any], list[Tensor]] = [], []
        self._changes: tuple[Any, ChangeMeasurer | None] = None, None
        self._gradients: tuple[Any, GradientMeasurer | None] = None, None

    def named(self) -> Mapping[str, nn.Parameter]:
        """Return `dict(model.named_parameters())`, in a tenth of its time while no module holds another object."""
        # The ids of all parameters and submodules: any that was replaced, added or removed changes them.
        if not self._dicts or self._held != tuple(map(id, chain.from_iterable(map(dict.values, self._dicts)))):
            held = [(module._parameters, module._modules) for module in self._model.modules()]
            self._dicts = [each for pair in held for each in pair]
            self._kept_alive = list(chain.from_iterable(map(dict.values, self._dicts)))
            self._held = tuple(map(id, self._kept_alive))
            self._named = {**dict(self._model.named_parameters()), **self._beside}
        return self._named

    @torch.no_grad()
    def keep(self, *, until_next: bool) -> dict[str, Tensor]:
        """Return copies of the parameters as they are.

        Args:
            until_next: whether they are needed until the next call alone; where the kernels take them, they then lie
                in the same memory each time, as asking the system for as much anew takes longer than copying.
        """
        named = self.named()
        if not until_next or not all(map(is_taken, named.values())):
            return {name: value.detach().clone() for name, value in named.items()}
        values: list[Tensor] = list(named.values())
        layout = extents_of(values)
        if self._copies[0] != layout:
            self._copies = layout, [torch.empty_like(value, requires_grad=False) for value in values]
        torch._foreach_copy_(self._copies[1], values)
        return dict(zip(named, self._copies[1], strict=True))

    @torch.no_grad()
    def gradients(
        self, gradients: Mapping[str, Tensor | None], *, histogram: bool, per_channel: bool
    ) -> GradientNumbers | None:
        """Measure the gradients as they are now; None where the kernels do not take them, or the parameters."""
        if not all(map(is_taken, self.named().values())):
            return None
        there = {name: gradient for name, gradient in gradients.items() if gradient is not None}
        tensors = list(there.values())
        if not all(map(is_taken, tensors)):
            return None
        statistics = None
        if tensors:
            layout = extents_of(tensors)
            key = layout, per_channel, histogram
            if self._gradients[0] != key:
                self._gradients = key, gradients_of(layout, per_channel=per_channel, histogram=histogram)
            if self._gradients[1] is None:
                return None
            statistics = self._gradients[1].measure(tensors)
        place = {name: number for number, name in enumerate(there)}
        return GradientNumbers(place, [each.ndim > 1 for each in tensors], per_channel, statistics)

    @torch.no_grad()
    def numbers(self, before: Mapping[str, Tensor], gradients: GradientNumbers) -> ParameterNumbers:
        """Measure the parameters of `before`, and what they became."""
        named = self.named()
        old, new = list(before.values()), [named[name] for name in before]
        layout = extents_of(old)
        alike = all(map(is_taken, new)) and layout == extents_of(new)
        if alike and self._changes[0] != layout:
            self._changes = layout, changes_of(layout)
        if alike and self._changes[1] is not None:
            squares, changes = self._changes[1].measure(old, new).T
        else:
            squares, changes = (part.numpy() ** 2 for part in (stats.norms(old), stats.distances(new, old)))
        return ParameterNumbers({name: number for number, name in enumerate(before)}, squares, changes, gradients)
