"""C27 on tables for which the verdict is known, and its twins against arithmetic."""

from __future__ import annotations

import math
from itertools import product

import pandas as pd
import pytest

from ics.claims import BUDGETS, CLAIMS, Evidence, base, net_name, weigh
from ics.claims.c27_cancelled_bias import recorded_gradients, twins
from ics.claims.method.runs import changed

SEEDS = range(4)
BATCH, PLAIN = net_name("batch"), net_name("none")


def twin_rows(gradient: float, change: float) -> pd.DataFrame:
    rows = [
        {"net": net, "seed": seed, "step": step, "loss": 1.0}
        | {"bias_gradient": gradient if net == BATCH else 0.3, "loss_change": change if net == BATCH else 0.1}
        | {"test_loss_change": 1e-3 / (1 + step) if step % 2 == 0 else math.nan}
        for net, seed, step in product((BATCH, PLAIN), SEEDS, range(5))
    ]
    return pd.DataFrame(rows)


def gradients(bias: float) -> dict[str, pd.DataFrame]:
    rows = [
        {"net": BATCH, "seed": seed, "step": step, "layer": f"linear{layer}", "layer_index": layer, "kind": "parameter"}
        | {"of": f"{owner}{layer}.{name}", "gradient_norm": bias if (name, owner) == ("bias", "linear") else 2.0}
        for seed, step, layer, owner, name in product(SEEDS, range(2), range(3), ("linear", "norm"), ("bias", "weight"))
    ]
    frame = pd.DataFrame(rows)
    # The output's bias is not cancelled, and not asked about.
    return {"gradients": frame.assign(gradient_norm=frame["gradient_norm"].where(frame["layer_index"] < 2, 2.0))}


@pytest.mark.parametrize(
    ("gradient", "change", "recorded", "outcome"),
    [
        (1e-16, 1e-15, 1e-8, "supported"),
        (0.2, 0.1, 0.4, "contradicted"),
        (1e-16, 1e-3, 1e-8, "mixed"),
        (1e-16, 1e-15, 0.4, "mixed"),
    ],
)
def test_cancelled_or_not(gradient: float, change: float, recorded: float, outcome: str) -> None:
    evidence = Evidence.of_frames(gradients(recorded), studies={"twins": twin_rows(gradient, change)})
    effects, verdict = weigh(CLAIMS["C27"], evidence)
    assert verdict.outcome == outcome
    found = {effect.measure: effect.estimate.center for effect in effects}
    assert found["test_loss_change_largest"] == pytest.approx(1e-3)
    assert found["test_loss_change_last"] == pytest.approx(1e-3 / 5)
    assert found["recorded_bias_gradient"] == pytest.approx(recorded / 2)


def test_a_gradient_that_is_not_finite_is_no_small_one() -> None:
    assert recorded_gradients(Evidence.of_frames(gradients(math.nan)))[BATCH, 0] == math.inf


def test_twins_differ_by_the_bias_alone() -> None:
    plain = {"instruments": {}, "options": {}, "evaluate_every": 0, "dtype": "float64", "hidden": (6, 5), "steps": 12}
    configs = [
        {"net": net_name(norm), **changed(base(BUDGETS["quick"], norm=norm, **plain))} for norm in ("batch", "none")
    ]
    rows = twins(seed=0, configs=configs, num_measurements=3, early=1).set_index("net")
    batch, standard = rows.loc[BATCH], rows.loc[PLAIN]
    assert batch["loss_change"].max() < 1e-13
    assert batch["bias_gradient"].max() < 1e-13
    assert standard["loss_change"].min() > 1e-6
    assert standard["bias_gradient"].min() > 1e-3
    looked = batch[batch["test_loss_change"].notna()]
    assert looked["step"].tolist() == [0, 1, 4, 8, 11]
    assert looked["test_loss_change"].min() > 1e-9  # running means have not caught up with the bias
