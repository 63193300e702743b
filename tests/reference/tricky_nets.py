"""Nets that leave something behind in a pass besides what their modules return: what prefix reuse may miss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.reference import leaving_nets

CLASSES = 5


class MovingAverage(nn.Module):
    """A codebook that follows what it sees, written through `.data`, which counts no version; used twice in a pass."""

    def __init__(self):
        super().__init__()
        self.stem, self.codes = nn.Linear(12, 12), Codes()
        self.middle, self.late, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        h = self.codes(torch.tanh(self.stem(x)))
        h = torch.tanh(self.late(torch.tanh(self.middle(h))))
        return self.head(self.codes(h))


class Codes(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(12))

    def forward(self, x):
        self.mean.data.mul_(0.5).add_(0.5 * x.detach().mean(0))
        return x - self.mean


class CountingCalls(nn.Module):
    """Noise that shrinks with the number of calls so far, which a plain attribute counts."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(4))
        self.head = nn.Linear(12, CLASSES)
        self.calls = 0

    def noisy(self, x):
        self.calls += 1
        return x + torch.randn_like(x) / (10 * self.calls)

    def forward(self, x):
        self.calls = 0
        for layer in self.layers:
            x = torch.tanh(self.noisy(layer(x)))
        return self.head(x)


class WritesIntoItsInput(nn.Module):
    """A module that changes its argument in place and returns something else."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate = nn.Linear(12, 12), Gate()
        self.middle, self.late, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        h = torch.tanh(self.stem(x)) * 1
        scale = self.gate(h)
        h = torch.tanh(self.middle(h)) * scale
        h[:, :4] = self.late(h.clone())[:, :4]
        return self.head(h)


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 12)

    def forward(self, x):
        scale = torch.sigmoid(self.layer(x.clone()))
        x.mul_(0.5).add_(0.1)
        return scale


class Views(nn.Module):
    """Modules that return parts of a whole, written into afterwards through another part."""

    def __init__(self):
        super().__init__()
        self.stem, self.split = nn.Linear(12, 24), Split()
        self.middle, self.late, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        left, right = self.split(torch.tanh(self.stem(x)) * 1)
        right = right + self.middle(left.clone())
        left += right
        return self.head(torch.tanh(self.late(left)) + right)


class Split(nn.Module):
    def forward(self, x):
        whole = x * 2
        return whole[:, :12], whole[:, 12:]


class SharedMemory(nn.Module):
    """A module returns a tensor and a view of it in one go; a write into the one must show in the other."""

    def __init__(self):
        super().__init__()
        self.stem, self.pair = nn.Linear(12, 12), Pair()
        self.middle, self.late, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        whole, part = self.pair(torch.tanh(self.stem(x)))
        h = self.middle(whole.clone())
        part += 1.0
        return self.head(torch.tanh(self.late(whole + h)))


class Pair(nn.Module):
    def forward(self, x):
        whole = x * 2
        return whole, whole[:, :6]


def _cross_entropy(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


NETS = {
    "leaves_on_itself": (leaving_nets.on_itself, _cross_entropy, "a block assigns a tensor to an attribute of its own"),
    "leaves_on_a_child": (
        leaving_nets.on_a_child,
        _cross_entropy,
        "a block assigns a tensor to an attribute of a module inside it",
    ),
    "leaves_on_the_root": (
        leaving_nets.on_the_root,
        _cross_entropy,
        "a block assigns a tensor to an attribute of the root",
    ),
    "leaves_in_an_object": (leaving_nets.in_an_object, _cross_entropy, "a block leaves a tensor in a plain object"),
    "leaves_detached": (leaving_nets.detached_in_an_object, _cross_entropy, "the same, without its graph"),
    "leaves_in_a_dictionary": (
        leaving_nets.in_a_nested_dictionary,
        _cross_entropy,
        "a block leaves a tensor in a nested dictionary",
    ),
    "leaves_in_a_list": (
        leaving_nets.in_a_list,
        _cross_entropy,
        "a block appends a tensor to a list, which is emptied again",
    ),
    "hooked": (leaving_nets.Hooked, _cross_entropy, "the head uses what a forward hook on an inner module kept"),
    "moving_average": (MovingAverage, _cross_entropy, "a buffer written through .data, read by a later call"),
    "counting_calls": (CountingCalls, _cross_entropy, "noise by the number of calls so far, in code between calls"),
    "writes_into_its_input": (WritesIntoItsInput, _cross_entropy, "a call changes its argument and returns another"),
    "views": (Views, _cross_entropy, "a call returns parts of a whole; one is written into"),
    "shared_memory": (SharedMemory, _cross_entropy, "a call returns a tensor and a view of it, written into later"),
    "between_on_a_child": (
        leaving_nets.between_on_a_child,
        _cross_entropy,
        "left on a module inside a block, taken by a later block",
    ),
    "between_in_an_object": (
        leaving_nets.between_in_an_object,
        _cross_entropy,
        "left in a plain object, taken by a later block",
    ),
    "between_in_a_buffer": (
        leaving_nets.between_in_a_buffer,
        _cross_entropy,
        "left in the root's buffer through .data",
    ),
    "hooked_power_iteration": (
        leaving_nets.HookedPowerIteration,
        _cross_entropy,
        "a hook advances buffers; its module runs twice",
    ),
}
