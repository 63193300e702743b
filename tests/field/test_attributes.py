"""States kept as plain attributes: replay sees them as before the block, training as the block left them."""

from __future__ import annotations

import copy
import types

import numpy as np
import pytest
import torch
from torch import nn

import ics
from tests.field.steps import PlainLoss, last_row, make_net, make_pairs, recorded, same_end, shift_and_floor, weights

KINDS = ["assigned", "in_place", "through_data", "in_a_dict", "counter", "array", "list", "object", "generator"]
EVERY = {"gradient_shift": 1, "gradient_line": 1, "drift": 1}


class Stateful(nn.Module):
    """y = net(x + state), with a state of one kind that every training pass moves on."""

    def __init__(self, kind):
        super().__init__()
        self.net = make_net()
        self.kind = kind
        self.state = {
            "assigned": torch.zeros(4, dtype=torch.float64),
            "in_place": torch.zeros(4, dtype=torch.float64),
            "through_data": torch.zeros(4, dtype=torch.float64),
            "in_a_dict": {"h": torch.zeros(4, dtype=torch.float64)},
            "counter": 0,
            "array": np.zeros(4),
            "list": [],
            "object": types.SimpleNamespace(h=torch.zeros(4, dtype=torch.float64)),
            "generator": np.random.default_rng(0),
        }[kind]

    def value(self):
        if self.kind == "in_a_dict":
            return self.state["h"]
        if self.kind == "list":
            return float(len(self.state))
        if self.kind == "object":
            return self.state.h
        if self.kind == "generator":
            return torch.from_numpy(copy.deepcopy(self.state).normal(size=4))
        return torch.from_numpy(self.state.copy()) if self.kind == "array" else self.state

    def move_on(self):
        if self.kind in ("assigned", "counter"):
            self.state = self.state + 1
        elif self.kind == "in_place":
            self.state.add_(1)
        elif self.kind == "through_data":
            self.state.data += 1
        elif self.kind == "in_a_dict":
            self.state["h"] = self.state["h"] + 1
        elif self.kind == "array":
            self.state += 1
        elif self.kind == "object":
            self.state.h = self.state.h + 1
        elif self.kind == "generator":
            self.state.normal(size=4)
        else:
            self.state.append(0)

    def forward(self, x):
        value = self.value()
        value = value.clone() if isinstance(value, torch.Tensor) else value
        self.move_on()
        return self.net(x + value)


def loss_fn(model, batch):
    x, y = batch
    return ((model(x) - y) ** 2).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_kept_as_a_plain_attribute(kind, tmp_path):
    pairs = make_pairs(3)
    model, twin = Stateful(kind), Stateful(kind)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    same_optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    at, states = [], []

    def block(batch):
        optimizer.zero_grad()
        states.append(copy.deepcopy(model.value()))
        loss_fn(model, batch).backward()
        at.append(weights(model.net))
        optimizer.step()

    run = recorded(tmp_path / "run", model, loss_fn, pairs, optimizer, block=block, instruments=EVERY, strict=True)
    for batch in pairs:
        same_optimizer.zero_grad()
        loss_fn(twin, batch).backward()
        same_optimizer.step()
    assert same_end(model, twin)
    assert torch.equal(torch.as_tensor(model.value()), torch.as_tensor(twin.value()))
    x, y = pairs[2]
    here = PlainLoss(model.net, x + states[2], y)
    here.at = at[2]
    shift, _ = shift_and_floor(here, weights(model.net))
    assert last_row(run)["shift_l2"] == pytest.approx(shift, rel=1e-10)
    assert "is equal to" in run.info["objective"]


def test_a_state_on_a_module_of_torch_that_the_first_step_makes(tmp_path):
    """`model.h` does not exist before the first pass, which behaves otherwise for that."""
    pairs = make_pairs(2)
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    at = []

    def with_memory(model, batch):
        x, y = batch
        x = x + model.h if hasattr(model, "h") else x
        model.h = x.detach().mean(0)
        return ((model(x) - y) ** 2).mean()

    def block(batch):
        optimizer.zero_grad()
        with_memory(model, batch).backward()
        at.append(weights(model))
        optimizer.step()

    run = recorded(tmp_path / "run", model, with_memory, pairs, optimizer, block=block, instruments=EVERY, strict=True)
    (x0, y0), (x1, y1) = pairs
    assert torch.equal(model.h, (x1 + x0.mean(0)).mean(0))
    for step, here in enumerate((PlainLoss(model, x0, y0), PlainLoss(model, x1 + x0.mean(0), y1))):
        here.at = at[step]
        shift, _ = shift_and_floor(here, at[1] if step == 0 else weights(model))
        assert last_row(run, step=step)["shift_l2"] == pytest.approx(shift, rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_one_shot_functions_leave_the_state_as_it_is(kind):
    ((x, y),) = make_pairs(1)
    model = Stateful(kind)
    here = PlainLoss(model.net, x + model.value(), y)
    after = {name: value.detach() - 0.1 for name, value in model.named_parameters()}
    frame = ics.gradient_shift(model, loss_fn, (x, y), after)
    moved = [[after[f"net.{place}.{name}"] for name in ("weight", "bias")] for place in (0, 2)]
    shift, _ = shift_and_floor(here, moved)
    row = frame[(frame["layer"] == "net.2") & (frame["parameters"] == "all")].iloc[0]
    assert row["shift_l2"] == pytest.approx(shift, rel=1e-10)
    ics.activation_stats(model, (x, y))
    assert torch.equal(torch.as_tensor(model.value()), torch.as_tensor(Stateful(kind).value()))
