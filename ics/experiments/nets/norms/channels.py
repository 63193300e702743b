"""What the normalisations per channel that torch lacks have in common: gamma, beta, running averages, checks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ics.errors import UsageError

EPS = 1e-5
MOMENTUM = 0.1


class ChannelNorm(nn.Module):
    """Abstract: z = gamma (x - mean) / scale + beta, each per channel of (N, C) or (N, C, *spatial).

    Parameters and buffers have the names of BatchNorm's, so either loads the other's `state_dict`. But it is no
    subclass of torch's `_BatchNorm`: code that sees one may assume that a bias in front has no gradient, that Theorem
    4.1 holds, and that running statistics do not affect the output in training. Here one of these fails.

    Args:
        num_features: C.
        spread: name of the buffer beside `running_mean`: what eval mode scales by.
        eps: keeps the scale from 0, as in BatchNorm.
        momentum: weight of the present batch in running averages, as in BatchNorm.
    """

    running_mean: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, *, spread: str, eps: float = EPS, momentum: float = MOMENTUM) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer(spread, torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"

    def advance(self, **batch: Tensor) -> None:
        """Move running averages, given by the names of their buffers, towards the values of a batch."""
        with torch.no_grad():
            for name, value in batch.items():
                self.get_buffer(name).lerp_(value.to(self.running_mean.dtype), self.momentum)
            self.num_batches_tracked.add_(1)

    def transform(self, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """Return gamma (x - mean) / scale + beta, given (C,) each."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean, scale, weight, bias = (value.view(shape) for value in (mean, scale, self.weight, self.bias))
        return torch.addcmul(bias, x - mean, weight / scale)

    def checked(self, x: Tensor) -> Tensor:
        """Return `x`, in at least the dtype of the parameters.

        Raises:
            UsageError: it is not (N, C) or (N, C, *spatial), or has one value per channel in training.
        """
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise UsageError(
                f"{type(self).__name__} expects inputs of shape (N, {self.num_features}, ...), got {tuple(x.shape)}; "
                f"type make_norm(name, {x.shape[1] if x.ndim > 1 else 'C'}, ndim={max(x.ndim, 2)})"
            )
        if self.training and x.numel() <= self.num_features:
            raise UsageError(
                f"{type(self).__name__} expects more than 1 value per channel in training, got inputs of shape "
                f"{tuple(x.shape)}; use larger batches, or model.eval()"
            )
        # Under autocast x is in half precision, where sums of squares overflow and variances lose their digits.
        return x.to(torch.promote_types(x.dtype, self.weight.dtype))


def channel_axes(x: Tensor) -> tuple[int, ...]:
    """Return the axes that statistics per channel are taken over."""
    return (0, *range(2, x.ndim))


def unbiased(variance: Tensor, x: Tensor) -> Tensor:
    """Return m / (m - 1) times the biased variance of m values per channel: what BatchNorm's running average takes."""
    m = x.numel() // x.shape[1]
    return variance * (m / (m - 1))
