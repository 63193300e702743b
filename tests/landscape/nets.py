"""Small nets with what makes evaluating elsewhere hard, their layers written down by hand, and real steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ics.landscape import Objective, RandomState, make_transition
from ics.records import Layer


class Residual(nn.Module):
    """One in-place ReLU called three times, `out += identity`, a shortcut declared first and executed last."""

    def __init__(self):
        super().__init__()
        self.shortcut = nn.Conv2d(3, 4, 1)
        self.conv1 = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.conv3 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        out += self.shortcut(x)
        identity = self.relu(out)
        out = self.conv3(identity)
        out += identity
        out = self.relu(out)
        return self.head(self.drop(out).mean((2, 3)))


class Reused(nn.Module):
    """One linear layer called three times, functional activations in place, functional dropout."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(32, 6)
        self.core = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = torch.tanh(self.embed(x.flatten(1)))
        for _ in range(3):
            h = F.relu(self.core(h), inplace=True) + 0.1 * h
        return self.head(F.dropout(h, 0.2, self.training))


class Tied(nn.Module):
    """An embedding whose weight is the output projection as well: used first and last."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.mix = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        h = self.embed(tokens)
        h = h + F.gelu(self.mix(h))
        return self.out(F.dropout(self.norm(h), 0.1, self.training))


def normalised_mlp():
    """Linear, batch norm, in-place ReLU, dropout; biases that batch norm subtracts again."""
    hidden = (nn.Linear(32, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.25))
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Sigmoid(), nn.Linear(6, 3))


def images(size, dtype):
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(size, 2, 4, 4, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 3, (size,), generator=generator)


def tokens(size, dtype):
    generator = torch.Generator().manual_seed(11)
    x = torch.randint(0, 5, (size, 6), generator=generator)
    return x, x.roll(1, 1)


def cross_entropy(model, batch):
    x, y = batch
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten())


@dataclass(frozen=True)
class Net:
    """A net, the modules of its layers in the order of execution, and its batches."""

    build: Callable[[], nn.Module]
    groups: tuple[tuple[str, ...], ...]
    batch: Callable[[int, torch.dtype], Any] = images
    smallest: int = 1


NETS = {
    "residual": Net(Residual, (("conv1", "bn1"), ("conv2", "bn2"), ("shortcut",), ("conv3",), ("head",))),
    "reused": Net(Reused, (("embed",), ("core",), ("head",))),
    "tied": Net(Tied, (("embed",), ("mix",), ("norm",)), tokens),
    "normalised_mlp": Net(normalised_mlp, (("1", "2"), ("5", "6"), ("8",)), smallest=2),
}

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}


def layers_of(model, groups):
    """`Layer`s of the named groups of modules, the one with the weight first."""
    layers = []
    names = {id(value): name for name, value in model.named_parameters()}
    for index, modules in enumerate(groups):
        owned = [
            names[id(value)] for module in modules for value in model.get_submodule(module).parameters(recurse=False)
        ]
        weight = names[id(model.get_submodule(modules[0]).weight)]
        kind = type(model.get_submodule(modules[0])).__name__
        layers.append(Layer(modules[0], index, kind, modules, (weight,), tuple(owned), (), 0))
    return layers


@dataclass
class Taken:
    """A real training step: what was before it and what came out of it."""

    model: nn.Module
    loss_fn: Callable[[nn.Module, Any], torch.Tensor]
    batch: Any
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    used: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    random_state: RandomState
    layers: list[Layer]

    def objective(self, batch=None, loss_fn=None):
        chosen = self.batch if batch is None else batch
        return Objective(
            self.model, loss_fn or self.loss_fn, chosen, random_state=self.random_state, buffers=self.buffers
        )

    def transition(self, **options):
        objective = options.pop("objective", None) or self.objective()
        return make_transition(objective, before=self.before, **({"after": self.after} | options))

    @property
    def circumstances(self):
        """What the reference needs to see the step as training saw it."""
        return {"random_state": self.random_state.cpu, "buffers": self.buffers}


def take_step(name, *, size=7, dtype=torch.float32, optimizer="sgd", seed=0, warm_up=2):
    """Train `warm_up` steps, so that momentum and running statistics are not at their start, and one more."""
    net = NETS[name]
    torch.manual_seed(seed)
    model = net.build().to(dtype)
    stepper = OPTIMIZERS[optimizer](model.parameters())
    batch = net.batch(max(size, net.smallest), dtype)
    for _ in range(warm_up + 1):
        before = copies(model.named_parameters())
        buffers = copies(model.named_buffers())
        state = RandomState.capture(model)
        stepper.zero_grad()
        cross_entropy(model, batch).backward()
        used = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        stepper.step()
    after = copies(model.named_parameters())
    layers = layers_of(model, net.groups)
    return Taken(model, cross_entropy, batch, before, after, used, buffers, state, layers)


def copies(named):
    return {name: value.detach().clone() for name, value in named}
