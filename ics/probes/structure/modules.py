"""What a module is to the measurements: a layer, a normalisation or neither; and the channel axis of its tensors."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from ics.probes.structure.activations import is_activation
from ics.stats import default_channel_axis

Role = Literal["layer", "normalization", "other"]

_LAST = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.LayerNorm,
    nn.RMSNorm,
)
_FROM_THE_END = {nn.InstanceNorm1d: -2, nn.InstanceNorm2d: -3, nn.InstanceNorm3d: -4}
_WRITTEN_BY_TORCH = "torch.nn.modules."


def role_of(module: nn.Module) -> Role:
    """A layer makes a pre-activation: it owns parameters, and neither normalises nor activates (as PReLU does)."""
    if is_normalization(module):
        return "normalization"
    return "layer" if owns_parameters(module) and not is_activation(module) else "other"


def owns_parameters(module: nn.Module) -> bool:
    """Return whether a module owns parameters itself: directly, in a ParameterList or -Dict, or parametrized."""
    if any(parameter is not None for parameter in module._parameters.values()) or parametrize.is_parametrized(module):
        return True
    lists = (child for child in module._modules.values() if isinstance(child, nn.ParameterList | nn.ParameterDict))
    return any(next(child.parameters(), None) is not None for child in lists)


def is_normalization(module: nn.Module) -> bool:
    """Return whether a module normalises: torch's own classes, or a leaf module that keeps a running mean.

    A name says nothing: the "BN" in `NoBN` is no normalisation.
    """
    if isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
        return True
    return "running_mean" in module._buffers and not module._modules


def channel_axis(module: nn.Module, tensor: Tensor) -> int:
    """Return the channel axis of what a module takes or returns.

    Counted from the end for convolutions, so that an image without a batch axis is read right too. Modules that are
    not torch's own, or that replace its `forward`, may lay out their tensors as they like: they get
    `stats.default_channel_axis`.

    Example:
        >>> import torch
        >>> channel_axis(nn.Conv2d(3, 8, 1), torch.zeros(3, 5, 5)), channel_axis(nn.Linear(3, 4), torch.zeros(2, 7, 3))
        (-3, -1)
    """
    if tensor.ndim == 0 or not type(module).forward.__module__.startswith(_WRITTEN_BY_TORCH):
        return default_channel_axis(tensor)
    axis = _axis_of(module)
    return default_channel_axis(tensor) if axis is None or not -tensor.ndim <= axis < tensor.ndim else axis


def _axis_of(module: nn.Module) -> int | None:
    if isinstance(module, _ConvNd):
        return -1 - len(module.kernel_size)
    if isinstance(module, _LAST):
        return -1
    if isinstance(module, _BatchNorm | nn.GroupNorm):
        return 1
    if isinstance(module, _NormBase):
        return next((axis for kind, axis in _FROM_THE_END.items() if isinstance(module, kind)), None)
    return None
