"""Training loops of the field: a small net, its batches, and the gradients that plain autograd gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import ics


def loss_fn(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def make_batches(num, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 4, generator=generator, dtype=dtype), torch.randn(6, 2, generator=generator, dtype=dtype))
        for _ in range(num)
    ]


def make_net(*, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def gradients_at(model, batch, *, at=None):
    """dL/dW of every parameter by plain autograd, at the model's parameters or others."""
    values = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    if at is not None:
        values = {name: value.detach().clone().requires_grad_() for name, value in at.items()}
    loss = F.mse_loss(torch.func.functional_call(model, values, (batch[0],)), batch[1])
    return dict(zip(values, torch.autograd.grad(loss, list(values.values())), strict=True))


def values_of(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def recorded(model, optimizer, to, instruments, block, batches, *, before=lambda model, batch: None, **settings):
    """Run `block(model, optimizer, batch)` under a recorder at every step, after `before`; return the run."""
    chosen = {"strict": True, **settings}
    choice = dict.fromkeys(instruments, 1)
    with ics.Recorder(model, loss_fn, to=to, optimizer=optimizer, instruments=choice, **chosen) as recorder:
        for batch in batches:
            before(model, batch)
            with recorder.step(batch):
                block(model, optimizer, batch)
    return ics.open_run(to)


def parameter_rows(run):
    rows = run.table("gradients")
    return rows[rows["kind"] == "parameter"].set_index(["step", "of"])
