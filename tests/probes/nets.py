"""Nets whose every intermediate is known: each has a twin written out by hand, in plain tensor operations."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.probes.rows import Key


class Residual(nn.Module):
    """Everything that goes wrong in ResNets: in-place ReLU used three times, `+=` into a module's output, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.bn0 = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn0(self.stem(x)))
        identity = x
        out = self.bn1(self.conv(x))
        out += identity
        out = self.relu(out)
        return self.relu(self.head(self.drop(out.mean((2, 3)))))


def residual_by_hand(net: Residual, x: Tensor) -> tuple[dict[Key, Tensor], Tensor]:
    """Return every site of `Residual` and its output; nothing is overwritten here."""
    stem = F.conv2d(x, net.stem.weight, net.stem.bias, padding=1)
    hat0 = _standardised(stem, net.bn0.eps)
    scaled0 = hat0 * _over_channels(net.bn0.weight) + _over_channels(net.bn0.bias)
    act0 = scaled0.clamp(min=0)
    conv = F.conv2d(act0, net.conv.weight, padding=1)
    hat1 = _standardised(conv, net.bn1.eps)
    scaled1 = hat1 * _over_channels(net.bn1.weight) + _over_channels(net.bn1.bias)
    act1 = (scaled1 + act0).clamp(min=0)
    dropped = F.dropout(act1.mean((2, 3)), 0.3, training=True)
    head = dropped @ net.head.weight.T + net.head.bias
    act2 = head.clamp(min=0)
    sites = {
        ("stem", 0, "input"): x,
        ("stem", 0, "preactivation"): stem,
        ("stem", 0, "normalized"): hat0,
        ("stem", 0, "scaled"): scaled0,
        ("stem", 0, "activation"): act0,
        ("conv", 0, "input"): act0,
        ("conv", 0, "preactivation"): conv,
        ("conv", 0, "normalized"): hat1,
        ("conv", 0, "scaled"): scaled1,
        ("relu", 0, "activation"): act1,
        ("head", 0, "input"): dropped,
        ("head", 0, "preactivation"): head,
        ("head", 0, "activation"): act2,
    }
    return sites, act2


def residual(*, batch: int, seed: int = 0) -> tuple[Residual, Tensor]:
    """Return the net in float64, its gammas and betas not 1 and 0, and a batch."""
    torch.manual_seed(seed)
    net = Residual().double()
    with torch.no_grad():
        for norm in (net.bn0, net.bn1):
            norm.weight.uniform_(-2, 2)
            norm.bias.uniform_(-1, 1)
    return net, torch.randn(batch, 2, 4, 5, dtype=torch.float64)


def dense(*sizes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Return Linear, ReLU, Linear, ReLU, ... of the given sizes."""
    torch.manual_seed(seed)
    modules = [module for inputs, outputs in pairwise(sizes) for module in (nn.Linear(inputs, outputs), nn.ReLU())]
    return nn.Sequential(*modules).to(dtype)


def _standardised(y: Tensor, eps: float) -> Tensor:
    mean = y.mean((0, 2, 3), keepdim=True)
    variance = ((y - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (y - mean) / (variance + eps).sqrt()


def _over_channels(value: Tensor) -> Tensor:
    return value[None, :, None, None]
