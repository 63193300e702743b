"""C19 on tables for which the verdict is known, in both directions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ics.claims import BUDGETS, Evidence, base, weigh
from ics.claims.c19_deep_linear import C19
from tests.claims.shift_tables import recorded

RATES = ("", ", lr 1e-07")


def linear_nets(standard, batch_norm) -> dict[str, pd.DataFrame]:
    both = {"standard": standard, "BatchNorm": batch_norm}
    return recorded({f"{net}, linear{rate}": shift for net, shift in both.items() for rate in RATES})


STILL, TURNED, SLIGHT = (
    {"cosine": 0.999, "relative": 0.05},
    {"cosine": 0.05, "relative": 1.05},
    {"cosine": 0.9, "relative": 0.5},
)


@pytest.mark.parametrize(
    ("standard", "batch_norm", "outcome"),
    [(STILL, TURNED, "supported"), (TURNED, SLIGHT, "contradicted"), (STILL, SLIGHT, "mixed")],
)
def test_shift_of_the_deep_linear_net(standard, batch_norm, outcome: str) -> None:
    effects, verdict = weigh(C19, Evidence.of_frames(linear_nets(standard, batch_norm)))
    assert verdict.outcome == outcome
    assert len(effects) == 10
    found = {(effect.measure, effect.setting): effect.estimate.center for effect in effects}
    assert found["cosine_without", "lr 1e-07"] == pytest.approx(standard["cosine"])
    assert found["shift_with", "lr 1e-06"] == pytest.approx(batch_norm["relative"], rel=1e-3)


def test_cosines_of_alternating_sign_are_not_uncorrelated() -> None:
    tables = linear_nets(STILL, TURNED)
    rows = tables["gradient_shift"]
    signs = np.where(rows["step"] == 0, 0.95, -0.95)
    swinging = rows.assign(shift_cosine=np.where(rows["net"].str.startswith("BatchNorm"), signs, rows["shift_cosine"]))
    effects, verdict = weigh(C19, Evidence.of_frames(tables | {"gradient_shift": swinging}))
    found = {effect.measure: effect.estimate.center for effect in effects}
    assert found["cosine_with"] == pytest.approx(0.0)
    assert found["absolute_cosine_with"] == pytest.approx(0.95)
    assert verdict.outcome == "mixed"


def test_the_deep_linear_nets_are_shared_where_they_can_be() -> None:
    quick = BUDGETS["quick"]
    first, second, *others = C19.nets(quick)
    assert (first, second) == (base(quick, "linear"), base(quick, "linear", norm="batch"))
    assert [config.learning_rate for config in others] == [1e-7, 1e-7]
    assert all(list(config.instruments) == ["gradient_shift"] for config in others)
