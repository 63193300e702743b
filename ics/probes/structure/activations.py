"""The activation functions that are recognised, with the asymptotes of those that are bounded on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Asymptotes = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ActivationFunction:
    """An activation function as it is called: its name and its lower and upper asymptote, if it has both."""

    name: str
    asymptotes: Asymptotes | None = None


_FUNCTIONS: Mapping[ActivationFunction, tuple[Callable[..., Tensor], ...]] = {
    ActivationFunction("relu"): (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
    ActivationFunction("leaky_relu"): (F.leaky_relu, F.leaky_relu_),
    ActivationFunction("prelu"): (F.prelu, torch.prelu, Tensor.prelu),
    ActivationFunction("rrelu"): (F.rrelu, F.rrelu_, torch.rrelu, torch.rrelu_),
    ActivationFunction("elu"): (F.elu, F.elu_),
    ActivationFunction("selu"): (F.selu, torch.selu, torch.selu_),
    ActivationFunction("celu"): (F.celu, torch.celu, torch.celu_),
    ActivationFunction("gelu"): (F.gelu,),
    ActivationFunction("silu"): (F.silu,),
    ActivationFunction("mish"): (F.mish,),
    ActivationFunction("hardswish"): (F.hardswish,),
    ActivationFunction("softplus"): (F.softplus,),
    ActivationFunction("logsigmoid"): (F.logsigmoid,),
    ActivationFunction("threshold"): (F.threshold, torch.threshold, torch.threshold_),
    ActivationFunction("relu6", (0.0, 6.0)): (F.relu6,),
    ActivationFunction("sigmoid", (0.0, 1.0)): (
        F.sigmoid,
        torch.sigmoid,
        torch.sigmoid_,
        Tensor.sigmoid,
        Tensor.sigmoid_,
        torch.special.expit,
    ),
    ActivationFunction("hardsigmoid", (0.0, 1.0)): (F.hardsigmoid,),
    ActivationFunction("tanh", (-1.0, 1.0)): (F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_),
    ActivationFunction("softsign", (-1.0, 1.0)): (F.softsign,),
    ActivationFunction("hardtanh", (-1.0, 1.0)): (F.hardtanh, F.hardtanh_),
}

_BY_FUNCTION = {function: activation for activation, functions in _FUNCTIONS.items() for function in functions}
_HARDTANH = (F.hardtanh, F.hardtanh_)


def activation_called(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> ActivationFunction | None:
    """Return which activation function a call is; None for any other function.

    Softmax and gated units are none: their values mix channels. `clamp` is none either, as it is no activation in
    most of its uses.

    Example:
        >>> activation_called(F.hardtanh, (torch.zeros(1), -2.0), {"max_val": 2.0}).asymptotes
        (-2.0, 2.0)
    """
    called = _BY_FUNCTION.get(function)
    if called is not None and function in _HARDTANH:
        low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
        high = args[2] if len(args) > 2 else kwargs.get("max_val", 1.0)
        return ActivationFunction(called.name, (float(low), float(high)))
    return called


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is one of torch's activation modules."""
    return type(module).__module__ == "torch.nn.modules.activation" and not isinstance(module, nn.MultiheadAttention)
