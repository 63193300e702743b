"""What several hybrids hold between two modules, as one tensor, and how one module is run on all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ics.landscape.substitution import substituted

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_POINTWISE = frozenset(
    {
        *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
        *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish),
    }
)


@dataclass(frozen=True)
class Stack:
    """A tensor of several hybrids.

    Attributes:
        values: shape (hybrids, samples, ...), or (hybrids, features, samples) with `features_first`. A matrix product
            with few features is several times faster so: its inner loop then runs over the samples.
        features_first: which of the two.
    """

    values: Tensor
    features_first: bool = False

    @classmethod
    def of(cls, value: Tensor) -> Stack:
        """Return the stack of one hybrid."""
        return cls(value[None])

    def samples_first(self) -> Tensor:
        """Return shape (hybrids, samples, ...)."""
        return self.values.mT.contiguous() if self.features_first else self.values

    def prepared(self, module: nn.Module, *, features_first: bool) -> Stack:
        """Return the same in the layout in which `module` is to be run on it."""
        if self.features_first or not (features_first and type(module) is nn.Linear and self.values.dim() == 3):
            return self
        return Stack(self.values.mT.contiguous(), features_first=True)


def joined(stacks: Sequence[Stack]) -> Stack:
    """Return stacks that came out of the same module as one."""
    if len(stacks) == 1:
        return stacks[0]
    return Stack(torch.cat([stack.values for stack in stacks]), stacks[0].features_first)


def is_understood(module: nn.Module) -> bool:
    """Return whether `run` knows the module: it draws nothing, and what it writes into buffers it does not read."""
    kind = type(module)
    return "forward" not in vars(module) and (
        kind is nn.Linear or kind in _POINTWISE or (kind in _BATCH_NORMS and module.training)
    )


def run(module: nn.Module, stack: Stack, parameters: Mapping[str, Tensor]) -> Stack:
    """Return what a module makes of each hybrid of the stack.

    Linear layers, pointwise activations and batch normalisation in training mode are run on the stack as it is. Batch
    normalisation leaves its running statistics alone. All else goes through `torch.vmap`.

    Args:
        module: the module.
        stack: its input.
        parameters: a value for each of its parameters, the same for all hybrids.
    """
    autocast = torch.is_autocast_enabled(stack.values.device.type)  # decides per operation, and ours are others
    if is_understood(module) and not autocast:
        if isinstance(module, nn.Linear):
            return _linear(stack, parameters["weight"], parameters.get("bias"))
        if isinstance(module, _BATCH_NORMS):
            return _batch_norm(stack, parameters.get("weight"), parameters.get("bias"), eps=module.eps)
        return Stack(module(stack.values), stack.features_first)
    with substituted(module, parameters):
        values = stack.samples_first()
        if len(values) == 1:
            return Stack.of(module(values[0]))
        return Stack(torch.vmap(module, randomness="same")(values))


def _linear(stack: Stack, weight: Tensor, bias: Tensor | None) -> Stack:
    if not stack.features_first:
        return Stack(F.linear(stack.values, weight, bias))
    out = torch.matmul(weight, stack.values)
    return Stack(out if bias is None else out + bias[:, None], features_first=True)


def _batch_norm(stack: Stack, weight: Tensor | None, bias: Tensor | None, *, eps: float) -> Stack:
    """The channels of all hybrids are channels of one batch normalisation."""
    size = len(stack.values)
    scale, offset = (None if value is None else value.repeat(size) for value in (weight, bias))
    if stack.features_first:
        out = F.batch_norm(stack.values.flatten(0, 1)[None], None, None, scale, offset, training=True, eps=eps)
        return Stack(out.view_as(stack.values), features_first=True)
    channels = stack.values.transpose(0, 1).flatten(1, 2)
    out = F.batch_norm(channels, None, None, scale, offset, training=True, eps=eps)
    return Stack(out.unflatten(1, (size, -1)).transpose(0, 1))
