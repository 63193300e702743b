"""What a module is to the measurements: a layer, a normalisation, or neither."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from ics.probes.structure.activations import is_activation

Role = Literal["layer", "normalization", "other"]


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
