"""C12 on tables for which the verdict is known, and the mean slope of sigmoids against the sigmoids themselves."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd
import pytest

from ics.claims import BUDGETS, CLAIMS, Evidence, weigh
from ics.claims.c12_saturation import best_of, worst_layers

SEEDS = range(4)
NETS = tuple(config.net for config in CLAIMS["C12"].nets(BUDGETS["quick"]))
LOW, HIGH = 0.01, 0.6


def tables(saturated: Mapping[str, float], accuracy: Mapping[str, float]) -> dict[str, pd.DataFrame]:
    """Activations of which a part is at an end and the others in the middle; numbers by "standard" and "BatchNorm"."""
    activations, steps = [], []
    for net, seed in product(NETS, SEEDS):
        kind = net.partition(",")[0]
        part = saturated[kind] * (1 + 0.02 * seed)
        # A part p of units at 0 or 1 and the others at 1/2: mean 1/2, variance p / 4, mean slope 1 - p.
        activations += [
            {
                "net": net,
                "seed": seed,
                "step": step,
                "layer_index": index,
                "site": "activation",
                "mean": 0.5,
                "m2": part * weight / 4,
                "saturated_fraction": part * weight,
            }
            for step, (index, weight) in product((0, 20), enumerate((1.0, 0.5)))
        ]
        steps += [
            {
                "net": net,
                "seed": seed,
                "step": step,
                "loss": 1.0,
                "train_accuracy": accuracy[kind] * (1 + 0.01 * seed) * (1 if "Adam" in net else 0.5),
            }
            for step in range(2)
        ]
    return {"activations": pd.DataFrame(activations), "steps": pd.DataFrame(steps)}


def both(standard: float, batch: float) -> dict[str, float]:
    return {"standard": standard, "BatchNorm": batch}


@pytest.mark.parametrize(
    ("saturated", "accuracy", "outcome"),
    [
        (both(HIGH, LOW), both(0.1, 0.9), "supported"),
        (both(LOW, HIGH), both(0.9, 0.1), "contradicted"),
        (both(HIGH, LOW), both(0.9, 0.95), "mixed"),
        (both(LOW, LOW), both(0.1, 0.9), "mixed"),
    ],
)
def test_both_sentences_are_asked(saturated, accuracy, outcome) -> None:
    effects, verdict = weigh(CLAIMS["C12"], Evidence.of_frames(tables(saturated, accuracy)))
    assert verdict.outcome == outcome
    found = {(effect.measure, effect.setting): effect.numbers[0] for effect in effects}
    assert found["saturation_avoided", "4 layers, SGD 0.1"] == pytest.approx(
        saturated["standard"] - saturated["BatchNorm"]
    )
    assert found["slope", "8 layers, SGD 1"] == pytest.approx(
        (1 - saturated["BatchNorm"]) / (1 - saturated["standard"])
    )
    assert found["accuracy_with", "8 layers"] == pytest.approx(accuracy["BatchNorm"])  # that of Adam, the best


def test_one_seed_decides_nothing_and_three_are_asked_for() -> None:
    rows = {name: frame.query("seed == 0") for name, frame in tables(both(HIGH, LOW), both(0.1, 0.9)).items()}
    verdict = weigh(CLAIMS["C12"], Evidence.of_frames(rows))[1]
    assert (verdict.outcome, verdict.seeds_needed) == ("inconclusive", 3)


def test_seeds_that_disagree_leave_it_open() -> None:
    frames = tables(both(HIGH, LOW), both(0.1, 0.9))
    rows = frames["activations"]
    rows["saturated_fraction"] *= rows["seed"] % 2
    rows["m2"] *= rows["seed"] % 2
    assert weigh(CLAIMS["C12"], Evidence.of_frames(frames))[1].outcome == "inconclusive"


def test_the_mean_slope_is_that_of_the_sigmoids() -> None:
    inputs = np.random.default_rng(0).normal(scale=3, size=(2, 1000))
    sigmoid = 1 / (1 + np.exp(-inputs))
    rows = pd.DataFrame(
        {
            "net": "a",
            "seed": 0,
            "step": 0,
            "layer_index": [0, 1],
            "saturated_fraction": [0.1, 0.2],
            "mean": sigmoid.mean(axis=1),
            "m2": sigmoid.var(axis=1),
        }
    )
    found = worst_layers(rows).iloc[0]
    slopes = np.exp(-inputs) / (1 + np.exp(-inputs)) ** 2  # by differentiation
    assert found["slope"] == pytest.approx(slopes.mean(axis=1).min() / 0.25)
    assert found["saturated_fraction"] == 0.2


def test_the_slope_of_a_standard_normal_is_what_the_remark_says() -> None:
    places, weights = np.polynomial.hermite_e.hermegauss(60)
    sigmoid = 1 / (1 + np.exp(-places))
    assert 4 * weights @ (sigmoid * (1 - sigmoid)) / weights.sum() == pytest.approx(0.83, abs=0.005)
    assert "0.83" in CLAIMS["C12"].remark


def test_the_best_of_several_nets() -> None:
    numbers = pd.Series({("a", 0): 1.0, ("b", 0): 2.0, ("c", 0): 9.0, ("a", 1): 5.0}).rename_axis(["net", "seed"])
    assert best_of(numbers, ["a", "b"]).to_dict() == {("best", 0): 2.0, ("best", 1): 5.0}
