"""Normalisation by estimated statistics of the population, outside the gradient step."""

from __future__ import annotations

import torch
from torch import Tensor

from ics.experiments.nets.norms.channels import EPS, MOMENTUM, ChannelNorm, channel_axes, unbiased


class PopulationNorm(ChannelNorm):
    """z = gamma (x - mean) / sqrt(variance + eps) + beta with running averages of the steps before.

    The present batch enters the running averages only after it was normalised. So the first step leaves x as it is
    (mean 0, variance 1), and dL/dx = gamma/sigma g. Training and eval mode compute the same, but eval mode does not
    change the averages. A bias in front is not cancelled.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of the present batch in the running averages.

    Example:
        >>> norm = PopulationNorm(1)
        >>> norm(torch.tensor([[2.0], [4.0]])).detach().flatten()  # mean 0 and variance 1 as yet: x as it is
        tensor([2.0000, 4.0000])
        >>> norm.running_mean
        tensor([0.3000])

    Source: Ioffe & Szegedy 2015, sec. 2, on normalising "interspersed with the optimization steps".
    """

    running_var: Tensor

    def __init__(self, num_features: int, *, eps: float = EPS, momentum: float = MOMENTUM) -> None:
        super().__init__(num_features, spread="running_var", eps=eps, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C) or (N, C, *spatial)."""
        x_wide = self.checked(x)
        result = self.transform(x_wide, self.running_mean, (self.running_var + self.eps).sqrt()).to(x.dtype)
        if self.training:
            variance, mean = torch.var_mean(x_wide.detach(), channel_axes(x), correction=0)
            self.advance(running_mean=mean, running_var=unbiased(variance, x))
        return result
