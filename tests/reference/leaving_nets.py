"""Nets in which a block leaves a tensor somewhere for code that runs later, besides what it returns."""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 5


class Stash:
    """A plain object, of which nobody outside knows what it holds."""

    def __init__(self):
        self.value = None


class Block(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Leaving(nn.Module):
    """Three blocks; the middle of each is left somewhere, and the head uses what the first one left.

    Args:
        leave: `leave(model, block, value)`, called inside the forward pass of a block.
        take: `take(model)`, called before the head.
    """

    def __init__(self, leave, take):
        super().__init__()
        self.stash, self.log, self.nested = Stash(), [], {"inner": {}}
        self.leave, self.take = leave, take
        self.blocks = nn.ModuleList(LeavingBlock() for _ in range(3))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x, self))
        return self.head(x + self.take(self))


class LeavingBlock(Block):
    def forward(self, x, model):
        h = torch.tanh(self.first(x))
        h = h + self.second(h)
        if self is model.blocks[0]:
            model.leave(model, self, h)
        return h


def on_itself():
    def leave(model, block, value):
        block.left = value

    return Leaving(leave, lambda model: model.blocks[0].left)


def on_a_child():
    def leave(model, block, value):
        block.second.left = value

    return Leaving(leave, lambda model: model.blocks[0].second.left)


def on_the_root():
    def leave(model, block, value):
        model.left = value

    return Leaving(leave, lambda model: model.left)


def in_an_object():
    def leave(model, block, value):
        model.stash.value = value

    return Leaving(leave, lambda model: model.stash.value)


def detached_in_an_object():
    def leave(model, block, value):
        model.stash.value = value.detach()

    return Leaving(leave, lambda model: model.stash.value)


def in_a_nested_dictionary():
    def leave(model, block, value):
        model.nested["inner"]["left"] = value

    return Leaving(leave, lambda model: model.nested["inner"]["left"])


def in_a_list():
    def leave(model, block, value):
        model.log.append(value)

    return Leaving(leave, lambda model: model.log.pop())


class Hooked(nn.Module):
    """A forward hook on an inner module keeps its output, and the head uses it, as feature extractors do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12)), Block(), Block())
        self.head = nn.Linear(12, CLASSES)
        self.seen = Stash()
        self.body[0][2].register_forward_hook(self.see)

    def see(self, module, args, output):
        self.seen.value = output

    def forward(self, x):
        h = self.body(x)
        return self.head(h + self.seen.value)


class Between(nn.Module):
    """What one block leaves is taken by the next but two, in the second half of the net; both are over before the end.

    Args:
        leave: `leave(model, value)`, called inside the forward pass of the block that leaves.
        take: `take(model)`, called inside the forward pass of the one that takes.
    """

    def __init__(self, leave, take):
        super().__init__()
        self.stash = Stash()
        self.leave, self.take = leave, take
        self.stem = nn.Sequential(*(nn.Linear(12, 12) for _ in range(5)))
        self.leaver, self.middle, self.taker = LeavingBlock(), Block(), TakingBlock()
        self.tail = nn.Sequential(*(nn.Linear(12, 12) for _ in range(3)), nn.Linear(12, CLASSES))
        self.blocks = [self.leaver]

    def forward(self, x):
        h = torch.tanh(self.middle(self.leaver(self.stem(x), self)))
        return self.tail(torch.tanh(self.taker(h, self)))


class TakingBlock(Block):
    def forward(self, x, model):
        return super().forward(x + model.take(model))


def between_on_a_child():
    def leave(model, block, value):
        block.second.left = value

    return Between(leave, lambda model: model.leaver.second.left)


def between_in_an_object():
    def leave(model, block, value):
        model.stash.value = value

    return Between(leave, lambda model: model.stash.value)


def between_in_a_buffer():
    def leave(model, block, value):
        model.mean.data.mul_(0.5).add_(0.5 * value.detach().mean(0))

    model = Between(leave, lambda model: model.mean)
    model.register_buffer("mean", torch.zeros(12))
    return model


class HookedPowerIteration(nn.Module):
    """The older spectral norm: a hook advances its buffers at every call, and the block is called twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*(nn.Linear(12, 12) for _ in range(5)))
        self.twice = nn.Sequential(nn.utils.spectral_norm(nn.Linear(12, 12)), nn.Tanh())
        self.middle = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))
        self.tail = nn.Sequential(*(nn.Linear(12, 12) for _ in range(3)), nn.Linear(12, CLASSES))

    def forward(self, x):
        return self.tail(self.twice(self.middle(self.twice(self.stem(x)))))
