"""Parameters whose gradient is zero by construction: what is computed for them is rounding, not a gradient."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ics.records import Layer


def cancelled_parameters(model: nn.Module, layer: Layer) -> frozenset[str]:
    """Return the biases of a layer that its own normalisation subtracts again.

    Decided by structure alone, never by size: a gradient that is merely small, as in a deep sigmoid net, is a number.
    A bias b that is added per channel to u and followed directly by a normalisation with the statistics of the batch
    per channel gives (u + b - mean(u + b)) / std(u + b), which does not depend on b: dL/db = 0 for every loss.

    Args:
        model: the model, in the mode in which it is measured.
        layer: a layer whose `modules` are the module with the bias and the normalisations that directly follow it.

    Example:
        >>> layer = Layer("0", 0, "Linear", ("0", "1"), ("0.weight",), ("0.weight", "0.bias", "1.weight"), (3, 2), 12)
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> cancelled_parameters(model, layer), cancelled_parameters(model.eval(), layer)
        (frozenset({'0.bias'}), frozenset())
    """
    named = dict(model.named_modules())
    head, *following = (named[name] for name in layer.modules if name in named)
    name = f"{layer.modules[0]}.bias".lstrip(".")
    bias = head._parameters.get("bias")
    if bias is None or name not in layer.parameters or not _adds_its_bias(head):
        return frozenset()
    return frozenset({name} if any(_subtracts(norm, bias.numel()) for norm in following) else ())


def _adds_its_bias(module: nn.Module) -> bool:
    """torch's linear and convolutional layers, and modules that have a bias and nothing else."""
    only = [key for key, value in module._parameters.items() if value is not None] == ["bias"]
    return only or isinstance(module, nn.Linear | nn.Bilinear | _ConvNd)


def _subtracts(norm: nn.Module, num_channels: int) -> bool:
    if isinstance(norm, _BatchNorm):
        return norm.num_features == num_channels and (norm.training or norm.running_mean is None)
    if isinstance(norm, _InstanceNorm):
        return norm.num_features == num_channels and (norm.training or not norm.track_running_stats)
    return isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels == num_channels
