"""C20 on quadratics: bends, slopes and sizes of weights that are known."""

from __future__ import annotations

import math
from itertools import product

import pandas as pd
import pytest

from ics.claims import BUDGETS, Evidence, base, weigh
from ics.claims.c18_internal_covariate_shift import C18
from ics.claims.c20_planarity import C20, at_equal_radii, weight_norms, worst_direction
from ics.claims.measures.taylor_error import departures

SEEDS = range(4)
ETAS = (0.0, 0.05, 0.1, 0.4)


def recorded(
    *, bend: float = 1.0, slope: float = 1.0, size: float = 1.0, with_curvature: bool = True
) -> dict[str, pd.DataFrame]:
    """Quadratics: the loss of the BatchNorm net bends `bend`, slopes `slope` times as much, with weights `size` times.

    Along a random direction the plane slopes a tenth as much, and the loss bends half as much.
    """
    line, gradients, curvature, steps = [], [], [], []
    shared = {"standard": (4.0, 2.0, 10.0), "BatchNorm": (4.0 * bend, 2.0 * slope, 10.0 * size)}
    nets = shared | {f"{net}, measured from the start": numbers for net, numbers in shared.items()}
    for (net, (bends, slopes, weight)), seed in product(nets.items(), SEEDS):
        bends *= 1 + 0.01 * seed
        key = {"net": net, "seed": seed}
        steps += [key | {"step": 0, "loss": 2.0}, key | {"step": 10, "loss": 0.5}]
        for step, (direction, tilt, part) in product((0, 10), (("gradient", 1.0, 1.0), ("random", 0.1, 0.5))):
            for eta in ETAS:
                distance = eta * slopes
                change = -tilt * slopes * distance
                line.append(
                    key
                    | {"step": step, "direction": direction, "draw": 0, "eta": eta, "distance": distance}
                    | {"loss": 3.0 + change + part * bends * distance**2 / 2, "predicted_change": change}
                    | {"gradient_norm": slopes, "learning_rate": 0.1}
                )
        for step, share in product((0, 10), (0.6, 0.8)):
            gradients.append(key | {"step": step, "kind": "parameter", "parameter_norm": share * weight})
        curvature += [key | {"step": step, "hessian_max_eigenvalue": bends} for step in (0, 10)]
    tables = {"gradient_line": line, "gradients": gradients, "curvature": curvature, "steps": steps}
    return {name: pd.DataFrame(rows) for name, rows in tables.items() if with_curvature or name != "curvature"}


def centers(tables: dict[str, pd.DataFrame]) -> dict[tuple[str, str], float]:
    effects, _ = weigh(C20, Evidence.of_frames(tables))
    return {(effect.measure, effect.setting): effect.estimate.center for effect in effects}


@pytest.mark.parametrize(("bend", "outcome"), [(0.5, "supported"), (2.0, "contradicted")])
def test_flatter_or_more_bent(bend: float, outcome: str) -> None:
    effects, verdict = weigh(C20, Evidence.of_frames(recorded(bend=bend)))
    assert verdict.outcome == outcome
    ratios = [effect for effect in effects if effect.scale == "ratio"]
    assert len(ratios) == 3 * 3 + 2 * 3
    assert {effect.setting for effect in ratios} == {
        "digits, along the gradient",
        "digits, random directions",
        "digits, worst direction",
    }
    for effect in ratios:
        assert effect.numbers == pytest.approx([bend] * len(SEEDS))


def test_a_smaller_slope_does_not_make_a_loss_planar() -> None:
    # Both bend alike; BatchNorm slopes, and so was probed, a fifth as far: at equal distance the departures are equal,
    # and compared with the slope BatchNorm's is five times as large.
    found = centers(recorded(slope=0.2))
    for words in ("along the gradient", "random directions", "worst direction"):
        assert found["departure_at_distance", f"digits, {words}"] == pytest.approx(1.0)
        assert found["departure_over_slope_at_distance", f"digits, {words}"] == pytest.approx(5.0)
        assert found["departure_at_equal_loss", f"digits, {words}"] == pytest.approx(1.0)
        assert found["departure_over_slope_at_equal_loss", f"digits, {words}"] == pytest.approx(5.0)


def test_larger_weights_make_equal_relative_distances_longer() -> None:
    found = centers(recorded(size=3.0))
    for words in ("along the gradient", "random directions", "worst direction"):
        assert found["departure_over_slope_at_distance", f"digits, {words}"] == pytest.approx(1.0)
        assert found["departure_over_slope_at_relative_distance", f"digits, {words}"] == pytest.approx(3.0)


def test_departures_are_those_of_the_quadratic_at_the_smaller_reach() -> None:
    tables = recorded(bend=2.0, slope=0.5, size=2.0)
    sizes = weight_norms(tables["gradients"])
    assert sorted(set(sizes["weight_norm"].round(9))) == [10.0, 20.0]
    probes = departures(tables["gradient_line"]).merge(sizes, on=["net", "seed", "step"])
    probes = probes.assign(relative_distance=probes["distance"] / probes["weight_norm"])
    rows = at_equal_radii(probes, "gradient", "standard", "BatchNorm").query("seed == 0 and step == 10")
    found = rows.set_index("net")
    # Reach: 0.4 * 2 * 0.5 = 0.4, relative 0.4 / 20 = 0.02, hence 0.2 and 0.4.
    assert found.loc["standard", "departure_at_distance"] == pytest.approx(4.0 * 0.4**2 / 2)
    assert found.loc["BatchNorm", "departure_at_distance"] == pytest.approx(8.0 * 0.4**2 / 2)
    assert found.loc["standard", "departure_over_slope_at_relative_distance"] == pytest.approx(4.0 * 0.2 / 2 / 2.0)
    assert found.loc["BatchNorm", "departure_over_slope_at_relative_distance"] == pytest.approx(8.0 * 0.4 / 2 / 1.0)


def test_a_loss_that_bends_down_everywhere_has_no_worst_direction_upwards() -> None:
    rows = pd.DataFrame(
        {"net": "a", "seed": 0, "step": [0, 1], "hessian_max_eigenvalue": [-1.0, 3.0]}
        | {"gradient_norm": [2.0, 0.0], "weight_norm": 5.0}
    )
    worst = worst_direction(rows)
    assert worst["departure_at_distance"].tolist() == [0.0, 1.5]
    assert worst["departure_over_slope_at_distance"].isna().tolist() == [False, True]


def test_nets_without_curvature_are_seen_along_their_lines() -> None:
    effects, verdict = weigh(C20, Evidence.of_frames(recorded(bend=0.5, with_curvature=False)))
    assert verdict.outcome == "supported"
    assert len([effect for effect in effects if effect.scale == "ratio"]) == 2 * 3 + 2 * 2


def test_the_published_setting_is_seen_along_the_gradient_only() -> None:
    tables = recorded(bend=0.5, with_curvature=False)
    images = {name: rows[~rows["net"].str.contains("start")] for name, rows in tables.items()}
    images = {name: rows.assign(net=rows["net"] + ", images") for name, rows in images.items()}
    images["gradient_line"] = images["gradient_line"].query("direction == 'gradient'")
    effects, verdict = weigh(C20, Evidence.of_frames(images, budget="paper"))
    assert verdict.outcome == "supported"
    assert {effect.setting for effect in effects if effect.scale == "ratio"} == {"images, along the gradient"}


def test_a_net_that_diverged_is_not_planar() -> None:
    tables = recorded(bend=0.5)
    steps = tables["steps"]
    steps.loc[steps["net"].str.startswith("BatchNorm") & (steps["step"] == 10), "loss"] = math.inf
    effects, verdict = weigh(C20, Evidence.of_frames(tables))
    at_equal_steps = [effect for effect in effects if effect.scale == "ratio" and "loss" not in effect.measure]
    assert {number for effect in at_equal_steps for number in effect.numbers} == {math.inf}
    assert verdict.outcome != "supported"


def test_one_seed_decides_nothing() -> None:
    alone = {name: rows[rows["seed"] == 0] for name, rows in recorded(bend=0.5).items()}
    assert weigh(C20, Evidence.of_frames(alone))[1].outcome == "inconclusive"


def test_the_nets_of_planarity_are_shared_ones() -> None:
    quick = BUDGETS["quick"]
    *shared, plain, normed = C20.nets(quick)
    assert tuple(shared) == (base(quick), base(quick, norm="batch"))
    assert (plain, normed) == C18.nets(quick)[2:]
