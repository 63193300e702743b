"""Normalisation that subtracts the mean and divides by the average lp norm instead of the standard deviation."""

from __future__ import annotations

import math

from torch import Tensor

from ics.errors import UsageError
from ics.experiments.nets.norms.channels import EPS, MOMENTUM, ChannelNorm, channel_axes


class LpNorm(ChannelNorm):
    """z = gamma (x - mu) / n_p + beta, n_p the average lp norm of a channel's values before the mean is subtracted.

        n_p = (mean |x|^p + eps)^(1/p),   n_inf = max |x| + eps

    For mu = 0, p = 2 is BatchNorm. Other than there, a bias in front receives a gradient: it is cancelled in x - mu but
    not in n_p.

    Args:
        num_features: C.
        p: at least 1; `math.inf` is the largest absolute value, whose gradient values of equal size share.
        eps: as above.
        momentum: weight of the present batch in the running averages of mu and of n_p, which eval mode uses.

    Raises:
        UsageError: `p` is below 1.

    Source: Santurkar et al. 2018, sec. 3.3, p = 1, 2, inf ("the average of their lp-norm (before shifting the mean)").
    """

    running_norm: Tensor

    def __init__(self, num_features: int, *, p: float, eps: float = EPS, momentum: float = MOMENTUM) -> None:
        if not p >= 1:
            raise UsageError(f"p is at least 1, got {p!r}; type 1, 2 or math.inf")
        super().__init__(num_features, spread="running_norm", eps=eps, momentum=momentum)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C) or (N, C, *spatial)."""
        x_wide = self.checked(x)
        if not self.training:
            return self.transform(x_wide, self.running_mean, self.running_norm).to(x.dtype)
        mean, norm = x_wide.mean(channel_axes(x)), self._average_norm(x_wide)
        self.advance(running_mean=mean, running_norm=norm)
        return self.transform(x_wide, mean, norm).to(x.dtype)

    def _average_norm(self, x: Tensor) -> Tensor:
        if self.p == math.inf:
            return x.abs().amax(channel_axes(x)) + self.eps
        return (x.abs().pow(self.p).mean(channel_axes(x)) + self.eps) ** (1 / self.p)

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return f"{super().extra_repr()}, p={self.p}"
