"""Which passes make a plan, and which are followed every time since no hook of a plan could tell what they do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ics.probes import Plans
from tests.probes.planned.test_plan import assert_same, once, rows_by_table


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))


class Checkpointed(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[1](checkpoint(self[0], x, use_reentrant=True))


@pytest.mark.parametrize(
    "make",
    [
        Functional,
        lambda: Checkpointed(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)),
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(4, 2)),
    ],
    ids=["functional", "checkpointed", "transformer"],
)
def test_passes_that_no_plan_can_tell_are_followed_every_time(make: Callable[[], nn.Module]) -> None:
    model, plans = make(), Plans()
    x = (
        torch.randn(6, 1, 4)
        if isinstance(model[0] if isinstance(model, nn.Sequential) else None, nn.TransformerEncoderLayer)
        else torch.randn(6, 4)
    )
    x.requires_grad_()
    for _ in range(2):
        assert_same(rows_by_table(model, once, x, plans), rows_by_table(model, once, x, None))
    assert list(plans.by_kind.values()) == [None]
