"""Small nets with what torchvision's families lack: recurrence, sharing, other normalisations, recomputation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torchvision import models
from torchvision.models.resnet import BasicBlock

CLASSES = 5


class Encoder(nn.Module):
    """nn.TransformerEncoder on tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens)).mean(1))


def encoder_in_eval_mode():
    return Encoder().eval()


class Attention(nn.Module):
    """Attention with a layer each for queries, keys, values and output, as most language models have it."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class SplitAttention(nn.Module):
    """Two attention blocks: the attention itself is a function called between modules."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16)
        self.blocks = nn.Sequential(Attention(16), Attention(16))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, tokens):
        return self.head(self.blocks(self.embed(tokens)).mean(1))


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 8)
        self.lstm = nn.LSTM(8, 8, num_layers=2, batch_first=True, dropout=0.2, bidirectional=True)
        self.middle = nn.Linear(16, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens):
        out, (hidden, _) = self.lstm(self.embed(tokens))
        return self.head(torch.tanh(self.middle(out.mean(1))) + hidden[-1])


class UnrolledGru(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 8)
        self.cell = nn.GRUCell(8, 8)
        self.middle = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens):
        x = self.embed(tokens)
        state = x.new_zeros(len(x), 8)
        for position in range(x.shape[1]):
            state = self.cell(x[:, position], state)
        return self.head(torch.relu(self.middle(state)))


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16)
        self.blocks = nn.Sequential(Attention(16), Attention(16))
        self.norm = nn.LayerNorm(16)
        self.out = nn.Linear(16, CLASSES, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(F.dropout(self.norm(self.blocks(self.embed(tokens))), 0.1, self.training))


def next_token(model, batch):
    x, _ = batch
    return F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


def frozen_batch_norm():
    model = models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def normalised(norm):
    """Convolutions with a normalisation each, in-place activations and a dropout."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=2, bias=False), norm(8), nn.ReLU(inplace=True)),
        *(nn.Conv2d(8, 8, 3, padding=1), norm(8), nn.SiLU(inplace=True), nn.Dropout2d(0.2)),
        *(nn.Conv2d(8, 12, 3, stride=2), norm(12), nn.Hardswish(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, CLASSES)),
    )


def sync_batch_norm_in_eval_mode():
    model = normalised(nn.SyncBatchNorm)
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.eval()
    return model


def with_layer_norm():
    blocks = [nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12), nn.GELU(), nn.Dropout(0.2)) for _ in range(4)]
    return nn.Sequential(*blocks, nn.Linear(12, CLASSES))


def with_weight_norm():
    layers = [parametrizations.weight_norm(nn.Linear(12, 12)) for _ in range(3)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.ReLU(), nn.Linear(12, CLASSES))


def with_spectral_norm():
    layers = [parametrizations.spectral_norm(nn.Linear(12, 12)) for _ in range(3)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.ReLU(), nn.Linear(12, CLASSES))


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.core, self.norm = nn.Linear(12, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.middle, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.relu(self.embed(x))
        for _ in range(3):
            identity = h
            h = self.norm(self.core(h))
            h += identity
            h = self.relu(h)
        return self.head(self.relu(self.middle(h)))


class UnderNoGrad(nn.Module):
    """The logits at a point are pulled towards those at a noisy one, which are a target: no gradient flows there."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 8))
        self.predict = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        with torch.no_grad():
            target = self.predict(self.body(x + 0.1 * torch.randn_like(x)))
        h = self.body(x)
        return self.head(torch.tanh(self.predict(h)) - 0.1 * target)


class Checkpointed(nn.Module):
    """Blocks that are computed again in the backward pass, without reentrance: torch refuses autograd.grad with it."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(12, 8), nn.Linear(8, CLASSES)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(inplace=True), nn.Dropout(0.2)) for _ in range(3)
        )

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = checkpoint(block, h, use_reentrant=False)
        return self.head(h)


def penalised(model, batch):
    """Cross-entropy with weight decay in the loss itself: all parameters are read again at the end."""
    x, y = batch
    return F.cross_entropy(model(x), y) + 0.01 * sum(value.square().sum() for value in model.parameters())


class HyperNetwork(nn.Module):
    """A layer computes the weight of the next one from the input's mean."""

    def __init__(self):
        super().__init__()
        self.stem, self.hyper = nn.Linear(12, 8), nn.Linear(8, 64)
        self.middle, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        h = torch.relu(self.stem(x))
        weight = self.hyper(h.mean(0)).view(8, 8)
        return self.head(torch.relu(self.middle(F.linear(h, weight))))


class Branching(nn.Module):
    """The sign and size of a number decide which layers run: other weights may call other modules."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.core, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        rows = h.sum(1) > 0
        h = torch.cat([self.left(h[rows]), self.right(h[~rows])])
        for _ in range(1 + int(100 * h.detach().square().mean()) % 3):
            h = torch.tanh(self.core(h))
        return self.head(h)
