"""BatchNorm followed by noise that makes the distributions less stable than without BatchNorm."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

MEAN_BOUND = 0.5  # mu ~ U(-0.5, 0.5)
SCALE_BOUNDS = (1.0, 1.25)  # sigma ~ U(1, 1.25)
MEAN_JITTER = 0.1  # m ~ U(mu - 0.1, mu + 0.1)
SCALE_JITTER = 0.1  # s ~ N(sigma, 0.1), a standard deviation


def shaken(a: Tensor) -> Tensor:
    """Return s a + m with noise whose own distribution is drawn anew at every call.

    Per unit mu ~ U(-0.5, 0.5) and sigma ~ U(1, 1.25); then per sample and unit m ~ U(mu - 0.1, mu + 0.1) and
    s ~ N(sigma, 0.1), a standard deviation. Height and width count as samples. The numbers come from torch's generator
    of the device, so that restoring its state draws the same numbers again.

    Args:
        a: (N, C) or (N, C, *spatial).

    Source: Santurkar et al. 2018, app. A, Alg. 1.
    """
    uniform = partial(torch.rand, dtype=a.dtype, device=a.device)
    normal = partial(torch.randn, dtype=a.dtype, device=a.device)
    per_unit = (1, a.shape[1], *(1,) * (a.ndim - 2))
    low, high = SCALE_BOUNDS
    mean = MEAN_BOUND * (2 * uniform(per_unit) - 1)
    scale = low + (high - low) * uniform(per_unit)
    m = mean + MEAN_JITTER * (2 * uniform(a.shape) - 1)
    s = scale + SCALE_JITTER * normal(a.shape)
    return s * a + m


class NoisyBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm of (N, C), and in training the noise of `shaken`; eval mode is BatchNorm's.

    What it returns, and what measurements call `scaled`, is noisy. As the noise does not depend on the input, a bias in
    front is cancelled as by BatchNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and shake."""
        a = super().forward(x)
        return shaken(a) if self.training else a


class NoisyBatchNorm2d(nn.BatchNorm2d):
    """The same of (N, C, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and shake."""
        a = super().forward(x)
        return shaken(a) if self.training else a
