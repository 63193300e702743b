"""BatchNorm whose statistics, or mean alone, are constants in the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ics.experiments.nets.norms.channels import EPS, MOMENTUM, ChannelNorm, channel_axes, unbiased


class DetachedBatchNorm(ChannelNorm):
    """BatchNorm's values with mean, or mean and variance, as constants in the gradient.

        z = gamma (x - mu) / sqrt(var + eps) + beta,  with x-hat = (x - mu) / sigma, g = dL/dz, m values per channel:
        mean constant:              dL/dx = gamma/sigma (g - <g,x-hat> x-hat / m)
        mean and variance constant: dL/dx = gamma/sigma g

    BatchNorm's own is gamma/sigma (g - <1,g>/m - <g,x-hat> x-hat / m). It makes no difference whether mu is a constant
    within the variance too, as the derivative of the variance by mu is 0. Without <1,g>/m a bias b in front
    receives a gradient, although z does not depend on b.

    Args:
        num_features: C.
        variance: whether the variance is a constant too.
        eps: added to the variance.
        momentum: weight of the present batch in the running averages, which eval mode uses.

    Source: Ioffe & Szegedy 2015, sec. 2, where the mean is left out of the gradient as an example of what goes wrong.
    """

    running_var: Tensor

    def __init__(
        self, num_features: int, *, variance: bool = False, eps: float = EPS, momentum: float = MOMENTUM
    ) -> None:
        super().__init__(num_features, spread="running_var", eps=eps, momentum=momentum)
        self.variance = variance

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C) or (N, C, *spatial)."""
        x_wide = self.checked(x)
        if not self.training:
            return self.transform(x_wide, self.running_mean, (self.running_var + self.eps).sqrt()).to(x.dtype)
        variance, mean = torch.var_mean(x_wide, channel_axes(x), correction=0)
        # The values are BatchNorm's, the gradient is not: a step may change a mean that the next pass subtracts again.
        mean = mean.detach()
        if self.variance:
            variance = variance.detach()
        self.advance(running_mean=mean, running_var=unbiased(variance, x))
        return self.transform(x_wide, mean, (variance + self.eps).sqrt()).to(x.dtype)

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return f"{super().extra_repr()}, variance={self.variance}"
