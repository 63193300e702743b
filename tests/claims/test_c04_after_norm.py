"""C04 on made-up tables for which the verdict is known, in both directions."""

from __future__ import annotations

import math
from itertools import product

import pandas as pd
import pytest

from ics.claims import BUDGETS, ClaimBudget, Evidence, weigh
from ics.claims.c01_shape_drift import SHAPE_CHANGES
from ics.claims.c04_after_norm import C04
from tests.claims.drift_tables import NORMED, PLAIN, SEEDS, drift, first, losses


def shapes(site: str, size: float) -> pd.DataFrame:
    return pd.DataFrame(
        {"seed": seed, "layer_index": layer, "site": site, "step": 10, "reference_step": 0, "measure": name}
        | {"value": size * (1 + 0.01 * seed) if layer < 3 else 1e3}
        for seed, layer, name in product(range(SEEDS), range(4), SHAPE_CHANGES)
    )


def after_norm(
    size: float, shape: float, *, lost: tuple[str, ...] = (), per_update: float | None = None, seeds: int = SEEDS
):
    sizes = {(PLAIN, "preactivation"): 1.0, (NORMED, "scaled"): size, (NORMED, "normalized"): 1e-7}
    updates = None if per_update is None else sizes | {(NORMED, "scaled"): per_update}
    tables = {"drift": drift(sizes, per_update=updates), "steps": losses(*lost)}
    studies = {PLAIN: shapes("preactivation", 1.0), NORMED: shapes("scaled", shape)}
    return weigh(C04, Evidence.of_frames(first(tables, seeds), studies=first(studies, seeds)))


@pytest.mark.parametrize(
    ("size", "shape", "per_update", "outcome"),
    [
        (0.5, 0.5, 0.5, "supported"),
        (2.0, 2.0, 2.0, "contradicted"),
        (0.5, 2.0, 0.5, "mixed"),
        (0.5, 0.5, 2.0, "mixed"),
    ],
)
def test_stable_after_batch_norm(size: float, shape: float, per_update: float, outcome: str) -> None:
    effects, verdict = after_norm(size, shape, per_update=per_update)
    assert verdict.outcome == outcome
    found = {effect.measure: effect.numbers[0] for effect in effects}
    assert found["wasserstein_1"] == pytest.approx(size)
    assert found["per_update"] == pytest.approx(per_update)
    assert found["shape_change"] == pytest.approx(shape)
    assert found["mean_shift_of_x_hat"] == pytest.approx(1e-7)


def test_a_net_that_diverged_was_not_stable() -> None:
    effects, verdict = after_norm(0.5, 0.5, lost=(NORMED,))
    found = {effect.measure: effect.numbers for effect in effects}
    assert found["wasserstein_1"] == (math.inf,) * SEEDS
    assert verdict.outcome != "supported"
    effects, _ = after_norm(2.0, 0.5, lost=(PLAIN,))
    assert next(effect for effect in effects if effect.measure == "per_update").numbers == (0.0,) * SEEDS


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda budget: budget.name)
def test_what_is_read_is_recorded(budget: ClaimBudget) -> None:
    for config in C04.nets(budget):
        assert {"drift", "normalization"} <= config.instruments.keys()


def test_one_seed_decides_nothing() -> None:
    assert after_norm(0.5, 0.5, seeds=1)[1].outcome == "inconclusive"
