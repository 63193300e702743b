"""C30 on made-up lines whose beta, sharpness and learning rate are known, and on a quadratic at its edge."""

from __future__ import annotations

import math
from itertools import product

import pandas as pd
import pytest

from ics.claims import BUDGETS, Evidence, base, weigh
from ics.claims.c30_edge_of_stability import C30, exponent

SEEDS, STEPS = range(4), range(0, 400, 50)
CONFIGS = {config.net: config for config in C30.nets(BUDGETS["quick"])}


def recorded(*, beta: float, sharpness: float, power: float = -1.0) -> Evidence:
    """Every net ends at `beta` and `sharpness`, as multiples of 2/lr; in the first half both are a tenth of that.

    With a power other than -1, beta at the second learning rate is not that multiple, but scales as lr^power.
    """
    line, curvature = [], []
    for (net, config), seed, step in product(CONFIGS.items(), SEEDS, STEPS):
        rate = config.learning_rate
        scale = (1.0 if step >= 175 else 0.1) * (1 + 0.001 * seed) * 2 / rate
        scaled = scale * (rate / 2e-5) ** (power + 1) if "tanh" in net else scale
        key = {"net": net, "seed": seed, "step": step, "learning_rate": rate}
        line += [
            key
            | {"layer": "(all)", "direction": "gradient", "eta": eta, "distance": eta, "loss": 1.0}
            | {"gradient_change_l2": beta * scaled * eta * (100.0 if eta > 4.1 * rate else 1.0)}
            for eta in (0.0, 0.5 * rate, 4 * rate, 30 * rate)
        ]
        curvature.append(
            key | {"hessian_max_eigenvalue": sharpness * scale, "batch_sharpness": 0.5 * scale, "two_over_lr": 2 / rate}
        )
    tables = {"gradient_line": pd.DataFrame(line), "curvature": pd.DataFrame(curvature)}
    return Evidence.of_frames(tables, configs=CONFIGS)


@pytest.mark.parametrize(
    ("beta", "sharpness", "power", "outcome"),
    [
        (1.0, 1.05, -1.0, "supported"),
        (0.3, 1.05, 0.0, "contradicted"),
        (1.0, 1.05, -0.5, "mixed"),
    ],
)
def test_held_at_the_edge_or_not(beta: float, sharpness: float, power: float, outcome: str) -> None:
    effects, verdict = weigh(C30, recorded(beta=beta, sharpness=sharpness, power=power))
    assert verdict.outcome == outcome
    found = {(effect.measure, effect.setting): effect.estimate.center for effect in effects}
    assert found["exponent", "standard, tanh"] == pytest.approx(power)
    assert found["beta_late", "BatchNorm, tanh, lr 2e-05"] == pytest.approx(beta * 1.0015)
    assert found["beta_at_edge", "standard, batches of 64"] == pytest.approx(beta * 1.0015)
    assert found["batch_sharpness_late", "standard, batches of 64"] == pytest.approx(0.5 * 1.0015)


def test_only_steps_at_the_edge_count_there() -> None:
    # Late beta is 1, of which the first half saw a tenth: at the edge none of the first half counts.
    effects, _ = weigh(C30, recorded(beta=1.0, sharpness=1.0))
    at_edge = [effect for effect in effects if effect.measure == "beta_at_edge"]
    assert len(at_edge) == len(CONFIGS)
    assert all(effect.estimate.center == pytest.approx(1.0015) for effect in at_edge)


def test_nets_that_never_come_to_the_edge_say_nothing_about_it() -> None:
    effects, verdict = weigh(C30, recorded(beta=1.0, sharpness=0.5))
    assert not [effect for effect in effects if effect.measure == "beta_at_edge"]
    assert verdict.outcome == "inconclusive"
    assert "beta_at_edge within 0.9 to 1.1: it was not measured" in verdict.reason


def test_a_line_that_overflowed_has_no_small_beta() -> None:
    found = recorded(beta=1.0, sharpness=1.05)
    line = found.table("gradient_line")
    line.loc[(line["net"] == "standard") & (line["eta"] > 0), ["loss", "gradient_change_l2"]] = math.nan
    tables = {"gradient_line": line, "curvature": found.table("curvature")}
    effects, _ = weigh(C30, Evidence.of_frames(tables, configs=CONFIGS))
    late = {effect.setting: effect.numbers for effect in effects if effect.measure == "beta_late"}
    assert late["standard, batches of 64"] == (math.inf,) * 4


def test_the_exponent_is_undefined_where_a_net_was_never_at_the_edge() -> None:
    names = [f"{net}, tanh, lr {rate:g}" for net in ("standard", "BatchNorm") for rate in (2e-5, 4e-5)]
    beta = pd.Series(
        [8.0, 4.0, 8.0, math.nan], index=pd.MultiIndex.from_tuples([(name, 0) for name in names], names=["net", "seed"])
    )
    found = exponent(beta)
    assert found["standard", 0] == pytest.approx(-1.0)
    assert math.isnan(found["BatchNorm", 0])


def test_one_seed_decides_nothing() -> None:
    found = recorded(beta=1.0, sharpness=1.05)
    tables = {name: found.table(name, where={"seed": 0}) for name in ("gradient_line", "curvature")}
    assert weigh(C30, Evidence.of_frames(tables, configs=CONFIGS))[1].outcome == "inconclusive"


def test_full_batch_nets_beside_the_shared_ones() -> None:
    quick = BUDGETS["quick"]
    *full, standard, batch_norm = C30.nets(quick)
    assert (standard, batch_norm) == (base(quick), base(quick, norm="batch"))
    assert all(config.batch_size is None for config in full)
    assert len(full) == 6
    assert any(config.model == "deep_linear" for config in C30.nets(BUDGETS["cpu"]))
