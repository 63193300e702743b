"""Nets that a replay call by call gets wrong unless it minds aliases, hidden state, random draws and parameter uses."""

from __future__ import annotations

import random
from collections import namedtuple
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


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
        h = self.stem(self.relu(x).clone())
        x.clamp_(max=1.0)
        return self.head(torch.tanh(self.middle(torch.tanh(h)) + x))


class Norms(nn.Module):
    """Every kind of normalisation, one of them in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(2 if i == 0 else 4, 4, 1) for i in range(6))
        norms = [nn.BatchNorm1d(4), nn.InstanceNorm1d(4, affine=True, track_running_stats=True), nn.GroupNorm(2, 4)]
        self.norms = nn.ModuleList([*norms, nn.BatchNorm1d(4), nn.LayerNorm(3), nn.RMSNorm(3)])
        self.norms[3].eval()
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        h = x.unflatten(1, (2, 3))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.leaky_relu_(norm(conv(h)), 0.1)
        return self.head(h.flatten(1))


class Draws(nn.Module):
    """Random numbers from every generator: in modules, between them, and deciding which module runs."""

    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = torch.Generator().manual_seed(1)

        def forward(self, x):
            scale = random.random() + np.random.rand()
            return x + scale * torch.rand(x.shape, generator=self.own).to(x) + 0.1 * torch.randn(x.shape).to(x)

    def __init__(self):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.noise, self.drop = self.Noise(), nn.Dropout(0.4)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for linear in self.linears:
            if random.random() < 0.8 or linear is self.linears[0]:
                x = self.noise(self.drop(F.elu(linear(x)))) * float(torch.rand(()))
        return self.head(F.dropout(x, 0.3, self.training))


class Target(nn.Module):
    """A second branch without gradients, and detached values that steer the first."""

    def __init__(self):
        super().__init__()
        self.online = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh())
        self.target = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = self.online(x)
        with torch.no_grad():
            goal = self.target(x)
        return self.head(h * (goal > 0).to(h) + h.detach().mean())


class Borrowed(nn.Module):
    """Weights used by functions of other modules, parametrized weights, and a parameter handed on as it is."""

    class Prompt(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.ones(6))

        def forward(self):
            return self.value

    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.second = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
        self.prompt = self.Prompt()
        self.third = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.full((6,), 0.5))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = torch.tanh(self.second(torch.tanh(self.first(x)))) + self.prompt()
        h = self.third.forward(h) * self.scale  # not by calling it
        return self.head(F.linear(h, self.third.weight.T) + F.linear(h, self.first.weight))


class Attention(nn.Module):
    """Attention as a module whose projection is never called, and a transformer with dropout."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(2, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = self.embed(x.unflatten(1, (3, 2)))
        mixed, weights = self.attention(h, h, h, need_weights=True)
        return self.head(self.encoder(h + mixed).mean(1) + weights.std())


class Recurrent(nn.Module):
    """Recurrent nets with several outputs, dropout between layers, and batch norm of the last step."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 5, 2, dropout=0.3, batch_first=True)
        self.gru = nn.GRU(5, 4, batch_first=True, bidirectional=True)
        self.norm = nn.BatchNorm1d(8)
        self.hidden, self.head = nn.Linear(13, 6), nn.Linear(6, 3)

    def forward(self, x):
        steps, (hidden, _) = self.lstm(x.unflatten(1, (3, 2)))
        steps, _ = self.gru(steps)
        return self.head(F.gelu(self.hidden(torch.cat([self.norm(steps[:, -1]), hidden[-1]], 1))))


class Checkpointed(nn.Module):
    """Parts whose activations are computed again in the backward pass."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 6)) for _ in range(2)
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = self.stem(x)
        for part in self.parts:
            h = checkpoint(part, h, use_reentrant=False)
        return self.head(h)


class Doubling(nn.Module):
    """Writes into its argument and returns it; nothing of it is needed by the backward pass."""

    def forward(self, x):
        return x.mul_(2)


class Remembering(nn.Module):
    """Remembers what it returned last."""

    def forward(self, x):
        self.last = 2 * x
        return self.last


class Sequences(nn.Module):
    """What a sequence hands on inside is seen outside: written in place, passed on, viewed, remembered, hooked."""

    seen: ClassVar[list[torch.Tensor]] = []

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        overwriting = (Doubling(), Doubling(), nn.Linear(6, 6))
        self.outer = nn.Sequential(nn.Identity(), *overwriting, nn.ReLU(inplace=True), nn.Linear(6, 6))
        views = (nn.Unflatten(1, (2, 3)), nn.Flatten())
        self.passing = nn.Sequential(nn.Identity(), nn.Linear(6, 6), *views, nn.Linear(6, 6), nn.Linear(6, 6))
        self.remembering = nn.Sequential(nn.Linear(6, 6), Remembering(), nn.ReLU(inplace=True), nn.Linear(6, 6))
        self.hooked = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Dropout(0.2))
        self.head = nn.Linear(6, 3)
        self.hooked[0].register_forward_hook(lambda module, args, output: Sequences.seen.append(output))
        self.hooked[2].register_forward_pre_hook(lambda module, args: Sequences.seen.append(args[0]))

    def forward(self, x):
        h = torch.tanh(self.stem(x)) / 2
        h = self.outer(h) + h
        h = self.passing(h) + h
        h = self.remembering(h) + self.remembering[1].last
        del self.remembering[1].last
        h = self.hooked(h) + sum(Sequences.seen)
        Sequences.seen.clear()
        return self.head(h)


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
