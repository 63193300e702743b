"""Nets that a replay call by call gets wrong unless it minds aliases and hidden state, and the table of such nets."""

from __future__ import annotations

from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn

from tests.landscape.hybrids.replay.tricky_operations import (
    Attention,
    Borrowed,
    Checkpointed,
    Draws,
    Norms,
    Recurrent,
    Sequences,
    Target,
)


class Block(nn.Module):
    """Pre-activation in place: the block's own input changes, and is used again after that."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm1d(6)
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        out = self.linear(self.norm(self.relu(x)))
        out += x  # x was rectified by the call above
        return out


class Preactivation(nn.Module):
    """Blocks one after the other, and a skip over all of them that the first block's in-place ReLU changes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = self.stem(x)
        out = self.blocks(h)
        out.mul_(0.5).add_(h)
        return self.head(out)


class Views(nn.Module):
    """A view of a module's output, halved in place: the output changes with it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.flat = nn.Unflatten(1, (2, 4))
        self.second = nn.Linear(4, 4)
        self.third = nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = self.first(x)
        halves = self.flat(h)
        halves[:, 0].mul_(0.5)
        out = self.second(halves.clone()).flatten(1) + h
        h.add_(1.0)
        return self.head(F.relu_(self.third(out + h)))


Pair = namedtuple("Pair", "left right")


class Branches(nn.Module):
    """Takes and returns containers."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, pair, *, scales):
        left = self.left(pair.left.clone()) * scales[0]
        return {"pair": Pair(left, self.right(pair.right)), "left": pair.left, "name": "x"}


class Containers(nn.Module):
    """Tuples, dictionaries and keyword arguments in and out, one tensor returned as it was given."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)
        self.one, self.two = Branches(), Branches()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = self.norm(self.stem(x))
        first = self.one(Pair(h, h.tanh()), scales=[torch.full((), 2.0)])
        first["left"].add_(0.5)
        second = self.two(first["pair"], scales=[h.mean()])
        return self.head(second["pair"].left + second["pair"].right * second["left"] + h)


class Result:
    """An object that no one knows how to take apart."""

    def __init__(self, value):
        self.value = value


class Opaque(nn.Module):
    """A module that returns such an object."""

    class Wrapped(nn.Linear):
        def forward(self, x):
            return Result(super().forward(x))

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 6), self.Wrapped(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(F.relu(self.third(self.second(torch.tanh(self.first(x))).value)))


class Skip(nn.Module):
    """Keeps its output as an attribute, for others to read."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.kept = None
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.kept = torch.tanh(self.linear(x)) * self.calls
        return self.kept + x


class Attributes(nn.Module):
    """Modules that count their calls and leave tensors on themselves, read later on in the pass."""

    class Same(Skip):
        def forward(self, x):
            super().forward(x)
            return self.kept  # whoever writes into what is returned writes into the attribute

    def __init__(self):
        super().__init__()
        self.down, self.same = nn.Sequential(Skip(), Skip()), self.Same()
        self.middle, self.up, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.same(self.down(x))
        h.mul_(0.5)
        h = self.up(F.silu(self.middle(h.clone()))) + self.down[0].kept
        h = self.down[0](h)  # the second call multiplies by 2
        return self.head(h + self.down[1].kept + self.same.kept)


class Collecting(nn.Module):
    """Modules that append to a list they share."""

    class Appending(nn.Linear):
        def __init__(self, features):
            super().__init__(6, 6)
            self.features = features

        def forward(self, x):
            out = torch.tanh(super().forward(x))
            self.features.append(out)
            return out

    def __init__(self):
        super().__init__()
        features = []
        self.first, second, third = (self.Appending(features) for _ in range(3))
        self.others = nn.Sequential(second, third)
        self.head = nn.Linear(18, 3)

    def forward(self, x):
        self.others(self.first(x))
        features = torch.cat(self.first.features, 1)
        self.first.features.clear()
        return self.head(features)


class Centred(nn.Module):
    """Subtracts a running mean kept in a buffer, which it moves first."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        self.mean.lerp_(x.detach().mean(0), 0.3)
        return x - self.mean


class Buffers(nn.Module):
    """Such modules between all layers, which share their buffer, and batch norm by running statistics."""

    def __init__(self):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.centre, self.other = Centred(), Centred()
        self.other.mean = self.centre.mean
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for linear in self.linears:
            x = self.norm(self.other(torch.tanh(self.centre(linear(x)))))
        return self.head(x + self.norm.running_mean)


class Statistics(nn.Module):
    """Reads running statistics that a batch norm in training mode, later in the pass, only writes."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return self.head(self.norm(self.second(torch.tanh(self.first(x + self.norm.running_mean)))))


class Late(nn.Module):
    """A module that runs another one before it reads a weight of its own."""

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)
            self.weight = nn.Parameter(torch.randn(3, 6))

        def forward(self, x):
            return F.linear(torch.tanh(self.inner(x)), self.weight)

    def __init__(self):
        super().__init__()
        self.stem, self.reader = nn.Linear(6, 6), self.Reader()

    def forward(self, x):
        return self.reader(torch.tanh(self.stem(x)))


class Overwriting(nn.Module):
    """Writes into the batch, in a module and between modules; the second time changes nothing."""

    def __init__(self):
        super().__init__()
        self.relu, self.stem = nn.ReLU(inplace=True), nn.Linear(6, 6)
        self.middle, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.relu(x)
        x.clamp_(max=1.0)
        h = self.stem(h.clone())
        return self.head(torch.tanh(self.middle(torch.tanh(h)) + x))


TRICKY = {
    each.__name__.lower(): each
    for each in (
        *(
            Preactivation,
            Views,
            Containers,
            Opaque,
            Attributes,
            Collecting,
            Buffers,
            Statistics,
            Late,
            Overwriting,
            Norms,
        ),
        *(Draws, Target, Borrowed, Attention, Recurrent, Checkpointed, Sequences),
    )
}
