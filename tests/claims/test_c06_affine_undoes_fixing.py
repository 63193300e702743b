"""C06 on made-up tables for which the verdict is known, in both directions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from ics.claims import BUDGETS, ClaimBudget, Evidence, weigh
from ics.claims.c06_affine_undoes_fixing import C06, moved
from tests.claims.drift_tables import FIXED, NORMED, SEEDS, drift, first, losses


def affine(gamma: float, beta: float) -> pd.DataFrame:
    """gamma from 1 and beta from 0, by a step of this size in each of four channels, up in some and down in others."""
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    rows = []
    for seed, layer, step in product(range(SEEDS), range(3), (20, 0, 10)):
        size = step / 20 * (1 + 0.01 * seed)
        place = {"seed": seed, "layer": f"n{layer}", "call": 0, "step": step}
        weight, bias = list(1 + gamma * size * signs), list(beta * size * signs)
        rows += [
            place | {"net": NORMED, "channel_weight": weight, "channel_bias": bias},
            place | {"net": FIXED, "channel_weight": None, "channel_bias": None},
        ]
    return pd.DataFrame(rows)


def undone(size: float, y: float, fixed: float, gamma: float, beta: float, seeds: int = SEEDS):
    sizes = {
        (NORMED, "input"): size,
        (FIXED, "input"): fixed,
        (NORMED, "scaled"): y,
        (NORMED, "normalized"): 0.1,
        (FIXED, "normalized"): 5.0,
    }
    tables = {"drift": drift(sizes), "normalization": affine(gamma, beta), "steps": losses()}
    return weigh(C06, Evidence.of_frames(first(tables, seeds)))


@pytest.mark.parametrize(
    ("numbers", "outcome"),
    [
        ((0.5, 0.3, 0.2, 0.4, 0.3), "supported"),
        ((0.01, 0.1, 0.01, 0.001, 0.002), "contradicted"),
        ((0.5, 0.3, 0.5, 0.4, 0.3), "mixed"),
        ((0.5, 0.3, 0.2, 0.4, 0.01), "mixed"),
    ],
)
def test_undone_or_not(numbers: tuple[float, ...], outcome: str) -> None:
    effects, verdict = undone(*numbers)
    assert verdict.outcome == outcome
    size, y, fixed, gamma, beta = numbers
    found = {effect.measure: effect.numbers[0] for effect in effects}
    assert found["input_change"] == pytest.approx(size)
    assert found["y_over_x_hat"] == pytest.approx(y / 0.1)
    assert found["input_over_fixed"] == pytest.approx(size / fixed)
    assert found["gamma_change"] == pytest.approx(gamma)
    assert found["beta_change"] == pytest.approx(beta)


def test_parameters_are_followed_from_first_to_last_step() -> None:
    rows = affine(0.4, 0.2)
    assert moved(rows, "channel_weight")[NORMED, 0] == pytest.approx(0.4)
    assert moved(rows, "channel_bias").index.get_level_values("net").unique().tolist() == [NORMED]
    rows.loc[(rows["step"] == 20) & (rows["net"] == NORMED), "channel_weight"] = pd.Series(
        [[1.0, math.nan, 1.0, 1.0]] * len(rows)
    )
    assert moved(rows, "channel_weight")[NORMED, 0] == math.inf


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda budget: budget.name)
def test_what_is_read_is_recorded(budget: ClaimBudget) -> None:
    for config in C06.nets(budget):
        assert {"drift", "normalization"} <= config.instruments.keys()


def test_one_seed_decides_nothing() -> None:
    assert undone(0.5, 0.3, 0.2, 0.4, 0.3, seeds=1)[1].outcome == "inconclusive"
