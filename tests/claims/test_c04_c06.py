"""C04 and C06 on made-up tables for which the verdict is known, in both directions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from ics.claims import BUDGETS, ClaimBudget, Evidence, weigh
from ics.claims.c01_shape_drift import SHAPE_CHANGES
from ics.claims.c04_after_norm import C04
from ics.claims.c06_affine_undoes_fixing import C06, moved

PLAIN, NORMED, FIXED = "standard", "BatchNorm", "BatchNorm, gamma and beta fixed"
DISTANCES = ("mean_shift", "log_variance_ratio", "wasserstein_1")
SEEDS = 4


Sizes = dict[tuple[str, str], float]


def drift(sizes: Sizes, *, per_update: Sizes | None = None) -> pd.DataFrame:
    """Drift of (net, site): the same by every distance; that of one update a hundredth, or as told."""
    rows = []
    for ((net, site), size), seed, layer, step in product(sizes.items(), range(SEEDS), range(4), (0, 10, 20)):
        for reference in ("before_update", "step_0")[: 1 + (step > 0)]:
            by_update = (per_update or sizes)[net, site] / 100
            number = (size if reference == "step_0" else by_update) * (1 + 0.02 * seed * (net != PLAIN))
            number = 1e3 if (layer, site) in {(3, "preactivation"), (3, "scaled"), (0, "input")} else number
            rows.append(
                {"net": net, "seed": seed, "step": step, "layer": f"l{layer}", "layer_index": layer, "call": 0}
                | {"site": site, "reference": reference}
                | dict.fromkeys(DISTANCES, number)
            )
    return pd.DataFrame(rows)


def first(frames: dict[str, pd.DataFrame], seeds: int) -> dict[str, pd.DataFrame]:
    return {name: frame[frame["seed"] < seeds] for name, frame in frames.items()}


def losses(*lost: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"net": net, "seed": seed, "step": step, "loss": math.nan if net in lost and step else 1.0}
        for net, seed, step in product((PLAIN, NORMED, FIXED), range(SEEDS), (0, 1))
    )


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
    for config in (*C04.nets(budget), *C06.nets(budget)):
        assert {"drift", "normalization"} <= config.instruments.keys()


def test_one_seed_decides_neither() -> None:
    assert after_norm(0.5, 0.5, seeds=1)[1].outcome == "inconclusive"
    assert undone(0.5, 0.3, 0.2, 0.4, 0.3, seeds=1)[1].outcome == "inconclusive"
