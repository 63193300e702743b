"""Small nets with what makes measuring hard: batch norm, dropout, in-place ReLU, residual adds, reused modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """Convolution, batch norm, one ReLU called twice, and `out += identity`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        identity = self.relu(self.stem(x))
        out = self.bn(self.conv(identity))
        out += identity
        out = self.relu(out)
        return self.head(self.drop(out.mean((2, 3))))


class Reused(nn.Module):
    """The same linear layer three times, functional activations, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 8)
        self.core = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.embed(x.flatten(1)))
        for _ in range(3):
            h = F.relu(self.core(h), inplace=True)
        return self.head(F.dropout(h, 0.2, self.training))


def normalised_mlp() -> nn.Module:
    """Linear, batch norm, in-place ReLU, dropout; a bias that batch norm cancels."""
    hidden = (nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.25))
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Linear(8, 3))


NETS = {"residual": Residual, "reused": Reused, "normalised_mlp": normalised_mlp}


def make_net(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return NETS[name]().to(dtype)


def make_batches(num: int, *, size: int = 7, seed: int = 1, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 1, 4, 4, generator=generator, dtype=dtype),
            torch.randint(0, 3, (size,), generator=generator),
        )
        for _ in range(num)
    ]


def loss_fn(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


def loss_that_fails(after: int):
    """Return `loss_fn` for so many calls, and what raises RuntimeError("out of luck") from then on."""
    calls = []

    def fragile(model, batch):
        calls.append(1)
        if len(calls) > after:
            raise RuntimeError("out of luck")
        return loss_fn(model, batch)

    return fragile


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}


def one_step(model, optimizer, batch):
    optimizer.zero_grad()
    loss = loss_fn(model, batch)
    loss.backward()
    optimizer.step()
    return loss
