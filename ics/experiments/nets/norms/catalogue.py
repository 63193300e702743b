"""Every normalisation by name, its position in a layer, and how to make it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from ics.errors import UsageError, unknown_name
from ics.experiments.nets.norms.detached import DetachedBatchNorm
from ics.experiments.nets.norms.noisy import NoisyBatchNorm1d, NoisyBatchNorm2d
from ics.experiments.nets.norms.population import PopulationNorm
from ics.experiments.nets.norms.power_mean import LpNorm

GROUP_SIZE = 16

Position = Literal["before", "after"]
_BEFORE: tuple[Position, ...] = ("before",)
_KINDS = {2: "(N, C)", 4: "(N, C, height, width)"}


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation as `norm=` names it.

    Attributes:
        summary: what it does, in a line.
        make: number of channels and of axes of its input to the module.
        positions: where a net has it: `"before"` the activation, on Wu + b; `"after"` it, on the next layer's u; both.
    """

    summary: str
    make: Callable[[int, int], nn.Module]
    positions: tuple[Position, ...] = _BEFORE


def norm_named(name: str) -> Norm:
    """Return the normalisation called `name`; `SelectionError` with near matches if there is none.

    Example:
        >>> norm_named("batch-both").positions
        ('before', 'after')
    """
    if name not in NORMS:
        raise unknown_name("norm", name, NORMS)
    return NORMS[name]


def make_norm(name: str, num_features: int, *, ndim: int) -> nn.Module:
    """Return the normalisation called `name`: `NORMS` says which there are.

    Args:
        name: a name in `NORMS`; the caller decides where in the net it stands.
        num_features: units of a linear layer, channels of a convolution.
        ndim: axes of its input: 2 for (N, C), 4 for (N, C, height, width).

    Raises:
        SelectionError: there is no such name.
        UsageError: another number of axes, or a normalisation over one single value, which is always 0: `instance` with
            (N, C), `layer` and `group` with (N, 1).

    Example:
        >>> make_norm("group", 64, ndim=4).num_groups, type(make_norm("layer", 5, ndim=2)).__name__
        (4, 'LayerNorm')
    """
    norm = norm_named(name)
    if ndim not in _KINDS:
        raise UsageError(f"norms take {' or '.join(_KINDS.values())}, got ndim={ndim!r}; type ndim=2 or ndim=4")
    return norm.make(num_features, ndim)


def _by_axes(one: type[nn.Module], two: type[nn.Module], num_features: int, ndim: int, **settings: Any) -> nn.Module:
    return (one if ndim == 2 else two)(num_features, **settings)


def _per_channel(kind: type[nn.Module], num_features: int, ndim: int, **settings: Any) -> nn.Module:
    return kind(num_features, **settings)


def _layer(num_features: int, ndim: int) -> nn.Module:
    """Normalise over all channels and places of a sample; gamma and beta per channel (Wu & He 2018, sec. 3.1)."""
    if ndim == 4:
        return nn.GroupNorm(1, num_features)
    _more_than_one("layer", num_features)
    return nn.LayerNorm(num_features)


def _group(num_features: int, ndim: int) -> nn.Module:
    """Groups of 16 channels or the next size that divides them; fewer channels are one group (Wu & He 2018, table 3).

    32 groups, their other choice, would leave two units per group in a narrow linear layer, of which only signs remain.
    """
    if ndim == 2:
        _more_than_one("group", num_features)
    size = next((size for size in range(GROUP_SIZE, num_features) if num_features % size == 0), num_features)
    return nn.GroupNorm(num_features // size, num_features)


def _instance(num_features: int, ndim: int) -> nn.Module:
    if ndim == 2:
        raise UsageError(
            "norm='instance' normalises the values that one sample has in one channel, and a linear layer makes only "
            "one; type norm='layer', or take a convolutional model such as model='vgg11'"
        )
    return nn.InstanceNorm2d(num_features, affine=True)


def _more_than_one(name: str, num_features: int) -> None:
    if num_features < 2:
        raise UsageError(
            f"norm={name!r} normalises over the units of a layer, and a layer of one unit would always give 0; "
            "type norm='batch', or wider layers"
        )


_batch = partial(_by_axes, nn.BatchNorm1d, nn.BatchNorm2d)

NORMS: Mapping[str, Norm] = {
    "none": Norm("no normalisation", lambda num_features, ndim: nn.Identity(), positions=()),
    "batch": Norm("BatchNorm of Wu + b (Ioffe & Szegedy 2015)", _batch),
    "layer": Norm("LayerNorm: over the channels of each sample (Ba et al. 2016)", _layer),
    "group": Norm("GroupNorm: over groups of 16 channels of each sample (Wu & He 2018)", _group),
    "instance": Norm("InstanceNorm: over each channel of each image (Ulyanov et al. 2016)", _instance),
    "batch-after-activation": Norm("BatchNorm of the next layer's input u", _batch, positions=("after",)),
    "batch-both": Norm("BatchNorm of Wu + b and of the next layer's u", _batch, positions=("before", "after")),
    "batch-fixed-affine": Norm("BatchNorm with gamma = 1 and beta = 0 throughout", partial(_batch, affine=False)),
    "noisy-batch": Norm(
        "BatchNorm, then noise that changes at every step (Santurkar et al. 2018)",
        partial(_by_axes, NoisyBatchNorm1d, NoisyBatchNorm2d),
    ),
    "l1": Norm("mean subtracted, divided by the average |x|", partial(_per_channel, LpNorm, p=1)),
    "l2": Norm("mean subtracted, divided by the root of the average x^2", partial(_per_channel, LpNorm, p=2)),
    "linf": Norm("mean subtracted, divided by the largest |x|", partial(_per_channel, LpNorm, p=math.inf)),
    "batch-detached-mean": Norm(
        "BatchNorm, its mean a constant in the gradient", partial(_per_channel, DetachedBatchNorm)
    ),
    "batch-detached": Norm(
        "BatchNorm, mean and variance constants in the gradient",
        partial(_per_channel, DetachedBatchNorm, variance=True),
    ),
    "population": Norm(
        "normalised by running averages of earlier steps, outside the gradient",
        partial(_per_channel, PopulationNorm),
    ),
}
