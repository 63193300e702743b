"""Activation functions by name: those of torch that act on each value separately, which the probes recognise."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ics.errors import unknown_name

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "rrelu": nn.RReLU,
    "relu6": nn.ReLU6,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "logsigmoid": nn.LogSigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "hardtanh": nn.Hardtanh,
    "hardswish": nn.Hardswish,
}
"""Name to class, called without arguments."""


def make_activation(name: str, *, inplace: bool = False) -> nn.Module:
    """Return the activation called `name`.

    Args:
        name: a name in `ACTIVATIONS`.
        inplace: let ReLU overwrite its input, as torchvision's nets do; no effect on others.

    Raises:
        SelectionError: there is no such name; lists near ones.

    Example:
        >>> make_activation("tanh"), make_activation("relu", inplace=True)
        (Tanh(), ReLU(inplace=True))
    """
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return nn.ReLU(inplace=True) if inplace and name == "relu" else ACTIVATIONS[name]()
