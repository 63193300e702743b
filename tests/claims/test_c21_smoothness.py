"""C21 on tables for which the verdict is known, in both directions."""

from __future__ import annotations

import math
from itertools import product

import pandas as pd
import pytest

from ics.claims import BUDGETS, CLAIMS, Evidence, base, weigh
from ics.claims.c21_smoothness import at_equal_distance
from ics.claims.measures.equal_loss import early_nets

SEEDS = range(4)
NETS = ("standard", "BatchNorm")
EARLY = tuple(f"{net}, measured from the start" for net in NETS)


def line(
    factor: float, *, norm_factor: float = 1.0, overflow: bool = False, at_equal_loss: float | None = None
) -> dict[str, pd.DataFrame]:
    """Quadratics: loss - eta g^2 + beta (eta g)^2 / 2; BatchNorm's beta is `factor` times that of the standard net.

    In the nets that are looked at early beta is proportional to the loss, and at equal loss BatchNorm's is
    `at_equal_loss` (`factor` if None) times the other's; its loss falls four times as far in as many steps.
    """
    rows, losses = [], []
    for net, seed, step in product((*NETS, *EARLY), SEEDS, (0, 10)):
        is_normed, is_early = net.startswith("BatchNorm"), net in EARLY
        fallen = 1.0 if step == 0 else 0.1 if is_normed else 0.4
        own = factor if at_equal_loss is None or not is_early else at_equal_loss
        beta = (own if is_normed else 1.0) * 4.0 * (1 + 0.01 * seed) * (fallen if is_early else 1.0)
        losses.append({"net": net, "seed": seed, "step": step, "loss": 2.0 * fallen})
        norm = norm_factor if is_normed else 1.0
        for eta in (0.0, 0.5, 1.0, 2.0):
            distance = eta * norm
            loss = 5.0 + beta * distance**2 / 2
            loss = math.nan if overflow and not is_normed and eta == 2.0 else loss
            rows.append(
                {"net": net, "seed": seed, "step": step, "layer": "(all)", "direction": "gradient", "eta": eta}
                | {"distance": distance, "loss": loss, "gradient_change_l2": beta * distance, "learning_rate": 1.0}
            )
    return {"gradient_line": pd.DataFrame(rows), "steps": pd.DataFrame(losses)}


@pytest.mark.parametrize(("factor", "outcome"), [(0.5, "supported"), (2.0, "contradicted")])
def test_smoother_or_rougher(factor: float, outcome: str) -> None:
    effects, verdict = weigh(CLAIMS["C21"], Evidence.of_frames(line(factor)))
    assert verdict.outcome == outcome
    found = {effect.measure: effect.estimate.center for effect in effects if effect.scale == "ratio"}
    assert found == {name: pytest.approx(factor) for name in found}
    assert len(found) == 8
    shown = {effect.setting: effect.estimate.center for effect in effects if effect.measure == "final_loss"}
    assert shown == {"standard": pytest.approx(0.8), "BatchNorm": pytest.approx(0.2)}


@pytest.mark.parametrize(("at_equal_loss", "factor"), [(0.5, 2.0), (2.0, 0.5)])
def test_nets_that_learn_at_different_rates_are_compared_at_equal_loss_too(at_equal_loss: float, factor: float) -> None:
    effects, verdict = weigh(CLAIMS["C21"], Evidence.of_frames(line(factor, at_equal_loss=at_equal_loss)))
    found = {effect.measure: effect.estimate.center for effect in effects if effect.scale == "ratio"}
    for name, center in found.items():
        assert center == pytest.approx(at_equal_loss if name.endswith("_at_equal_loss") else factor), name
    assert verdict.outcome == "mixed"


def test_a_budget_without_early_nets_is_not_judged_at_equal_loss() -> None:
    tables = {name: rows[rows["net"].isin(NETS)] for name, rows in line(0.5).items()}
    effects, verdict = weigh(CLAIMS["C21"], Evidence.of_frames(tables))
    assert not [effect for effect in effects if effect.measure.endswith("_at_equal_loss")]
    assert verdict.outcome == "inconclusive"


def test_small_gradients_look_smooth_at_equal_steps_and_not_at_equal_distance() -> None:
    tables = line(2.0, norm_factor=0.1)
    effects, verdict = weigh(CLAIMS["C21"], Evidence.of_frames(tables))
    assert verdict.outcome == "mixed"
    found = {effect.measure: effect.estimate.center for effect in effects if effect.scale == "ratio"}
    assert found["loss_range"] < 0.1  # it moved a tenth as far
    assert found["beta_at_distance"] == pytest.approx(2.0)


def test_equal_distance_interpolates_the_longer_line() -> None:
    rows = line(1.0, norm_factor=0.6)["gradient_line"].query("seed == 0 and step == 0").assign(run="x")
    reached = at_equal_distance(rows, *NETS).set_index("net")
    # The standard net was probed at 1 and 2; 1.2 lies a fifth of the way.
    assert reached.loc["standard", "beta_at_distance"] == pytest.approx(4.0)
    assert reached.loc["standard", "loss_change_at_distance"] == pytest.approx(2.0 + 0.2 * (8.0 - 2.0))
    assert reached.loc["BatchNorm", "loss_change_at_distance"] == pytest.approx(4.0 * 1.2**2 / 2)


def test_a_loss_that_overflows_is_no_small_range() -> None:
    effects, _ = weigh(CLAIMS["C21"], Evidence.of_frames(line(0.5, overflow=True)))
    found = {effect.measure: effect for effect in effects}
    assert set(found["loss_range"].numbers) == {0.0}  # finite / inf
    assert found["beta"].estimate.center == pytest.approx(0.5)


def test_the_nets_of_smoothness_are_shared_ones() -> None:
    configs = CLAIMS["C21"].nets(BUDGETS["quick"])
    shared = (base(BUDGETS["quick"]), base(BUDGETS["quick"], norm="batch"))
    assert configs == (*shared, *early_nets(BUDGETS["quick"]))
    assert CLAIMS["C18"].nets(BUDGETS["quick"]) == configs
