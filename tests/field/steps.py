"""A small net in float64, one measured step of it, and the right shift of its last layer by plain autograd."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

import ics


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def make_pairs(num: int, *, size: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 4, generator=generator, dtype=torch.float64),
            torch.randn(size, 2, generator=generator, dtype=torch.float64),
        )
        for _ in range(num)
    ]


def pair_loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(x), y)


def shift_and_floor(losses, after, *, second=None):
    """Return ||G - G'|| of the last layer's parameters, and ||G - G_second||.

    `losses(first, last)` is the loss, a function of the parameters of the first and of the last layer; `second`
    is that of another batch.
    """
    before, (new_first, _) = losses.at, after

    def gradient(loss, first, last):
        leaves = [each.detach().clone().requires_grad_() for each in last]
        found = torch.autograd.grad(loss([each.detach() for each in first], leaves), leaves)
        return torch.cat([each.flatten() for each in found])

    here = gradient(losses, *before)
    shift = float((gradient(losses, new_first, before[1]) - here).norm())
    floor = None if second is None else float((gradient(second, *before) - here).norm())
    return shift, floor


class PlainLoss:
    """The mean squared error of the net with these weights on one pair, without any module."""

    def __init__(self, model, x, y):
        self.at = weights(model)
        self.x, self.y = x.clone(), y.clone()

    def __call__(self, first, last):
        hidden = torch.tanh(self.x @ first[0].T + first[1])
        return ((hidden @ last[0].T + last[1] - self.y) ** 2).mean()


def weights(model):
    """Copies of the parameters of the first and the last layer."""
    return [[value.detach().clone() for value in model[place].parameters()] for place in (0, 2)]


def recorded(to, model, loss_fn, batches, optimizer, *, block=None, instruments=None, **options):
    """Train a measured step for each batch; `block(batch)` is the loop's body, default forward, backward, step."""

    def usual(batch):
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()

    instruments = instruments or {"gradient_shift": 1}
    with ics.Recorder(model, loss_fn, to=to, optimizer=optimizer, instruments=instruments, **options) as recorder:
        for batch in batches:
            with recorder.step(batch):
                (block or usual)(batch)
    return ics.open_run(to)


def last_row(run, *, step=-1):
    """The row of the last layer, all its parameters, at a step (default the last)."""
    rows = run.table("gradient_shift")
    rows = rows[(rows["layer"] == rows["layer"].iloc[-1]) & (rows["parameters"] == "all")]
    return rows.sort_values("step").iloc[step]


def same_end(model, twin) -> bool:
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))


def twin_of(model):
    return copy.deepcopy(model)
