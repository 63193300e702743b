"""Nets whose operations are tricky to replay: normalisations, random draws, attention, recurrence, checkpoints."""

from __future__ import annotations

import random
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


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
