"""C07, C08, C21 and C29 on tables for which the verdict is known, in both directions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from ics.claims import BUDGETS, CLAIMS, Evidence, base, weigh
from ics.claims.c07_same_over_time import correlation, spread
from ics.claims.c21_smoothness import at_equal_distance
from ics.claims.c29_gradient_growth import PREDICTED, growth
from ics.claims.measures.equal_loss import early_nets

SEEDS = range(4)
NETS = ("standard", "BatchNorm")


def seen(over_time: float, between_layers: float, *, net: str, seed: int) -> list[dict[str, object]]:
    """What the layers of a net see: means that move by one amount over steps and differ by another over layers."""
    return [
        {
            "net": net,
            "seed": seed,
            "step": step,
            "layer": f"linear{layer}",
            "layer_index": layer,
            "site": "input",
            "mean": over_time * step + between_layers * layer,
            "m2": 1.0,
        }
        for step, layer in product(range(3), range(4))
    ]


def sameness_tables(
    over_time: list[float], between_layers: list[float], losses: list[float]
) -> dict[str, pd.DataFrame]:
    names = [f"net{number}" for number in range(len(losses))]
    rows, steps = [], []
    for seed, number in product(SEEDS, range(len(losses))):
        rows += seen(over_time[number], between_layers[number], net=names[number], seed=seed)
        steps.append({"net": names[number], "seed": seed, "step": 0, "loss": losses[number]})
    return {"activations": pd.DataFrame(rows), "steps": pd.DataFrame(steps)}


RISING, SHUFFLED = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.3, 0.6, 0.2, 0.5, 0.1, 0.4]


@pytest.mark.parametrize(
    ("over_time", "between_layers", "outcome"),
    [
        (RISING, SHUFFLED, "supported"),
        (SHUFFLED, RISING, "contradicted"),
        (RISING, RISING, "mixed"),
        (RISING[::-1], RISING, "contradicted"),
    ],
)
def test_sameness_over_time_or_likeness_of_layers(over_time, between_layers, outcome) -> None:
    tables = sameness_tables(over_time, between_layers, losses=RISING)
    effects, verdict = weigh(CLAIMS["C07"], Evidence.of_frames(tables))
    assert verdict.outcome == outcome
    assert {effect.measure for effect in effects} == {"time_correlation", "layer_correlation", "layers_over_steps"}


def test_the_spread_is_the_distance_of_normal_distributions() -> None:
    # Layers 1 to 3 of means 0.5 apart at unit variance: distances 0.5, 0.5 and 1, mean 2/3.
    rows = pd.DataFrame(seen(0.25, 0.5, net="a", seed=0)).query("layer_index > 0")
    assert spread(rows, along="layer")["a", 0] == pytest.approx(2 / 3)
    assert spread(rows, along="step")["a", 0] == pytest.approx(1 / 3)
    wider = rows.assign(m2=np.where(rows["step"] == 0, 1.0, 4.0), mean=0.0)
    # Steps 0-1 and 0-2: |1 - 2| / sqrt(1 * 2); steps 1-2: 0.
    assert spread(wider, along="step")["a", 0] == pytest.approx(2 / 3 / math.sqrt(2))


def test_a_diverged_net_moves_infinitely_far_and_ranks_last() -> None:
    rows = pd.DataFrame(seen(0.25, 0.5, net="a", seed=0))
    rows.loc[rows["step"] == 2, ["mean", "m2"]] = np.nan
    assert spread(rows, along="step")["a", 0] == math.inf
    spreads = pd.Series({("a", 0): math.inf, ("b", 0): 1.0, ("c", 0): 0.5})
    losses = pd.Series({("a", 0): math.inf, ("b", 0): 2.0, ("c", 0): 1.0})
    assert correlation(spreads, losses).tolist() == pytest.approx([1.0])
    assert correlation(spreads, losses * 0).isna().all()


def shapes(change: float) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    rows = []
    for seed, step, layer in product(SEEDS, range(2), range(3)):
        values = rng.gamma(2.0, size=(500, 5))
        gamma, beta = rng.normal(size=5), rng.normal(size=5)
        for site, one in (("normalized", values), ("scaled", gamma * values + beta + change * values**2)):
            centred = one - one.mean(axis=0)
            moments = [(centred**power).mean(axis=0) for power in (2, 3, 4)]
            pooled = [((one - one.mean()) ** power).mean() for power in (2, 3, 4)]
            rows.append(
                {"net": "BatchNorm, float64", "seed": seed, "step": step, "layer": f"l{layer}", "layer_index": layer}
                | {"call": 0, "site": site}
                | dict(zip(("m2", "m3", "m4"), pooled, strict=True))
                | {f"channel_m{power}": moment for power, moment in zip((2, 3, 4), moments, strict=True)}
            )
    return {"activations": pd.DataFrame(rows)}


@pytest.mark.parametrize(("change", "outcome"), [(0.0, "supported"), (1e-4, "contradicted")])
def test_gamma_and_beta_change_no_shape_but_a_square_does(change: float, outcome: str) -> None:
    effects, verdict = weigh(CLAIMS["C08"], Evidence.of_frames(shapes(change)))
    assert verdict.outcome == outcome
    pooled = next(effect for effect in effects if effect.measure == "pooled_skewness_change")
    assert min(pooled.numbers) > 1e-3  # all channels together do change their shape


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


def growths(batch_norm: float, standard: float) -> dict[str, pd.DataFrame]:
    rows = [
        {"net": net, "seed": seed, "layer_index": layer, "growth": 50.0 if layer < 2 else rate * (1 + 0.001 * seed)}
        for (net, rate), seed, layer in product((("BatchNorm", batch_norm), ("standard", standard)), SEEDS, range(8))
    ]
    return {"growth": pd.DataFrame(rows)}


@pytest.mark.parametrize(
    ("batch_norm", "standard", "outcome"),
    [(1.211, 1.0, "supported"), (1.0, 1.3, "contradicted"), (1.0, 1.0, "mixed"), (1.3, 1.0, "mixed")],
)
def test_growth_of_gradients(batch_norm: float, standard: float, outcome: str) -> None:
    evidence = Evidence.of_frames(studies=growths(batch_norm, standard))
    assert weigh(CLAIMS["C29"], evidence)[1].outcome == outcome


def test_gradients_do_grow_so() -> None:
    frame = pd.concat([growth(seed=seed, depth=10, width=256, batch_size=256).assign(seed=seed) for seed in range(3)])
    effects, _ = weigh(CLAIMS["C29"], Evidence.of_frames(studies={"growth": frame}))
    batch_norm, standard = (effect.estimate.center for effect in effects)
    assert batch_norm == pytest.approx(PREDICTED, abs=0.02)
    assert standard == pytest.approx(1.0, abs=0.02)


def test_the_nets_of_smoothness_are_shared_ones() -> None:
    configs = CLAIMS["C21"].nets(BUDGETS["quick"])
    shared = (base(BUDGETS["quick"]), base(BUDGETS["quick"], norm="batch"))
    assert configs == (*shared, *early_nets(BUDGETS["quick"]))
    assert CLAIMS["C18"].nets(BUDGETS["quick"]) == configs
