"""How long a plan is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ics.probes import Plans
from ics.probes import probes as probes_module
from tests.probes.planned.test_plan import dense, once, rows_by_table


def test_plans_are_made_anew_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plans, "RENEWED_AFTER", 4)
    followed: list[int] = []
    real = probes_module.Watch

    def watch(*args: Any, **kwargs: Any) -> Any:
        followed.append(plans.uses[next(iter(plans.uses))])
        return real(*args, **kwargs)

    monkeypatch.setattr(probes_module, "Watch", watch)
    model, plans, x = dense(), Plans(), torch.randn(9, 6)
    for _ in range(9):
        rows_by_table(model, once, x, plans)
    assert followed == [1, 4, 8]
