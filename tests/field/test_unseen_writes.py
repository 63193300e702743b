"""Writes that torch's version counter does not see: the same rule at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ics.probes import Plans, Probes
from tests.probes.rows import activations


class Writing(nn.Module):
    """A net whose forward writes to what its first layer returned."""

    def __init__(self, write: Callable[[Tensor], Any], width: int) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2)
        self.write, self.begins, self.passes = write, 0, 0
        self.returned: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        hidden = self.first(x)
        self.returned = [hidden.detach().clone()]
        if self.passes >= self.begins:
            self.write(hidden)
        self.passes += 1
        self.returned.append(hidden.detach().clone())
        return self.last(self.act(hidden))


def zeroed(h: Tensor) -> None:
    h.data.zero_()


def by_numpy(h: Tensor) -> None:
    h.detach().numpy()[:] = 0


def clamped(h: Tensor) -> None:
    h.data.clamp_(-0.1, 0.1)


def one_value(h: Tensor) -> None:
    h.data.view(-1)[h.numel() // 3] = 1e3


def through_a_view(h: Tensor) -> None:
    view = np.from_dlpack(h.detach())[1:3]
    np.multiply(view, 2.0, out=view)


WRITES = [zeroed, by_numpy, clamped, one_value, through_a_view]


def measured(model: nn.Module, x: Tensor, plans: Plans) -> dict[Any, dict[str, Any]]:
    probes = Probes(model, activations=True, gradients=True, normalization=False, plans=plans)
    with probes:
        model(x).square().mean().backward()
    return activations(probes)


@pytest.mark.parametrize("width", [5, 700])
@pytest.mark.parametrize("write", WRITES)
def test_a_layers_output_is_what_it_returned_at_every_step(write: Callable[[Tensor], Any], width: int) -> None:
    """The write comes after the layer, in every step: its row is of what it returned."""
    torch.manual_seed(0)
    model, plans = Writing(write, width), Plans()
    for step in range(6):
        row = measured(model, torch.randn(6, 4), plans)["first", 0, "preactivation"]
        exact = model.returned[0].double()
        assert row["mean"] == pytest.approx(float(exact.mean()), rel=1e-5, abs=1e-7), step
        assert row["maximum"] == pytest.approx(float(exact.max()), rel=1e-6), step


@pytest.mark.parametrize("write", [zeroed, by_numpy, clamped])
def test_writes_that_begin_later_make_one_step_null(write: Callable[[Tensor], Any]) -> None:
    """The writes begin at step 4: that step is null with its reason, later ones are right."""
    torch.manual_seed(0)
    model, plans = Writing(write, 5), Plans()
    model.begins = 4
    for step in range(8):
        x = torch.randn(6, 4)
        if step == 4:
            with pytest.warns(UserWarning, match="null"):
                row = measured(model, x, plans)["first", 0, "preactivation"]
            assert row["mean"] is None
            assert row["null_reason"]
        else:
            row = measured(model, x, plans)["first", 0, "preactivation"]
            exact = model.returned[0].double()
            assert row["maximum"] == pytest.approx(float(exact.max()), rel=1e-6), step


class Between(Writing):
    """The write comes right between two layers: the second takes another tensor than the first returned."""

    def forward(self, x: Tensor) -> Any:
        hidden = self.first(x)
        returned = hidden.detach().clone()
        self.write(hidden)
        self.returned = [returned, hidden.detach().clone()]
        return self.last(hidden)


@pytest.mark.parametrize("write", WRITES)
def test_the_next_layers_input_is_what_it_took(write: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    model, plans = Between(write, 5), Plans()
    for step in range(5):
        rows = measured(model, torch.randn(6, 4), plans)
        for key, seen in zip((("first", 0, "preactivation"), ("last", 0, "input")), model.returned, strict=True):
            assert rows[key]["mean"] == pytest.approx(float(seen.double().mean()), rel=1e-5, abs=1e-7), step
            assert rows[key]["maximum"] == pytest.approx(float(seen.max()), rel=1e-6), step
