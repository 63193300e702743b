"""C16 on tables for which the verdict is known, and its divergence against that of the penalty itself."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from ics.claims import BUDGETS, CLAIMS, Evidence, base, weigh
from ics.claims.c16_gaussian_substitute import best_net, gaussian_divergence, recovered
from ics.experiments.training import penalty

SEEDS = range(4)
NETS = tuple(config.net for config in CLAIMS["C16"].nets(BUDGETS["quick"]))
STEPS = 100


def tables(standard: float, batch: float, best: float, *, noise: float = 0.01) -> dict[str, pd.DataFrame]:
    """Losses that fall exponentially to the given ones; of the penalties that of strength 0.1 is the best."""
    rng = np.random.default_rng(0)
    steps, activations = [], []
    for net, seed in product(NETS, SEEDS):
        end = {"standard": standard, "BatchNorm": batch}.get(net.partition(",")[0], best)
        worse = 4 if net.startswith("penalty") and not net.startswith("penalty 0.1") else 1
        end *= worse * math.exp(noise * rng.normal())
        curve = 2.3 * (end / 2.3) ** np.minimum(np.arange(STEPS) / (0.85 * STEPS), 1)
        steps.append(
            pd.DataFrame({"net": net, "seed": seed, "step": range(STEPS), "loss": curve, "test_accuracy": 1 - end / 5})
        )
        activations += [
            {
                "net": net,
                "seed": seed,
                "step": 0,
                "layer_index": index,
                "site": site,
                "channel_mean": np.array([2.0]),
                "channel_m2": np.ones(1),
                "channel_m3": np.zeros(1),
                "channel_m4": np.full(1, 3.0),
            }
            for index in range(3)
            for site in ("preactivation",)
        ]
    return {"steps": pd.concat(steps, ignore_index=True), "activations": pd.DataFrame(activations)}


@pytest.mark.parametrize(
    ("losses", "outcome"),
    [
        ((0.5, 0.05, 0.05), "supported"),
        ((0.5, 0.05, 0.04), "supported"),
        ((0.5, 0.01, 0.9), "contradicted"),
        ((0.06, 0.01, 0.06), "mixed"),  # recovers nothing of the loss, but is as accurate
    ],
)
def test_a_substitute_or_none(losses: tuple[float, float, float], outcome: str) -> None:
    effects, verdict = weigh(CLAIMS["C16"], Evidence.of_frames(tables(*losses)))
    assert verdict.outcome == outcome, verdict.reason
    chosen = {effect.note for effect in effects if effect.measure == "improvement_recovered"}
    assert chosen == {"strength by the loss: penalty 0.1", "strength by the loss: penalty 0.1, 5 x learning rate"}


def test_noise_decides_nothing_and_neither_does_one_seed() -> None:
    frames = tables(0.1, 0.07, 0.08, noise=1.0)
    assert weigh(CLAIMS["C16"], Evidence.of_frames(frames))[1].outcome == "inconclusive"
    one = {name: frame.query("seed == 0") for name, frame in tables(0.5, 0.05, 0.05).items()}
    assert weigh(CLAIMS["C16"], Evidence.of_frames(one))[1].outcome == "inconclusive"


def test_where_batchnorm_brings_nothing_there_is_nothing_to_recover() -> None:
    effects, verdict = weigh(CLAIMS["C16"], Evidence.of_frames(tables(0.05, 0.5, 0.05)))
    assert all(math.isnan(number) for number in effects[0].numbers)
    assert verdict.outcome != "supported"


def test_the_recovered_part_of_the_improvement() -> None:
    losses = pd.Series(
        {
            (net, seed): loss
            for seed, row in enumerate(
                (
                    (1.0, 0.01, 0.1),
                    (1.0, 0.01, 1.0),
                    (math.inf, 0.1, 0.1),
                    (math.inf, 0.1, math.inf),
                    (1.0, 0.1, math.inf),
                    (0.1, 0.2, 0.1),
                    (1.0, 0.1, 0.01),
                )
            )
            for net, loss in zip("abc", row, strict=True)
        }
    ).rename_axis(["net", "seed"])
    found = recovered(losses, "a", "b", "c").tolist()
    assert found == pytest.approx([0.5, 0.0, 1.0, 0.0, -math.inf, math.nan, 2.0], nan_ok=True)


def test_the_best_strength_is_one_for_all_seeds() -> None:
    losses = pd.Series(
        {
            ("a", 0): 1.0,
            ("a", 1): math.inf,
            ("a", 2): 1.0,
            ("b", 0): 2.0,
            ("b", 1): 0.5,
            ("b", 2): 2.0,
            ("c", 0): math.inf,
            ("c", 1): math.inf,
            ("c", 2): 0.1,
        }
    )
    losses = losses.rename_axis(["net", "seed"])
    assert best_net(losses, ["b", "a", "c"]) == "a"
    assert best_net(losses, ["c", "b"]) == "b"


def test_the_divergence_is_that_of_the_penalty() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=(7, 400))
    mean, (m2, m3, m4) = values.mean(axis=1), (((values.T - values.mean(axis=1)) ** k).mean(axis=0) for k in (2, 3, 4))
    expected = penalty.gaussian_divergence(torch.from_numpy(values)).item()
    assert gaussian_divergence(mean, m2, m3, m4) == pytest.approx(expected, rel=1e-12)


def test_the_divergence_is_of_what_the_activation_sees() -> None:
    frames = tables(0.5, 0.05, 0.05)
    rows = frames["activations"]
    normed = rows[rows["net"].str.startswith("BatchNorm") & (rows["layer_index"] < 2)]
    normed = normed.assign(site="normalized", channel_mean=[np.zeros(1)] * len(normed))
    frames["activations"] = pd.concat([rows, normed], ignore_index=True)
    effects, _ = weigh(CLAIMS["C16"], Evidence.of_frames(frames))
    found = {effect.setting: effect.numbers[0] for effect in effects if effect.measure == "divergence"}
    # KL(N(2, 1) || N(0, 1)) = 2, and 0 once the mean is gone; the floor of the variance adds some 1e-5.
    assert found["standard"] == pytest.approx(2.0, abs=1e-4)
    assert found["BatchNorm"] == pytest.approx(0.0, abs=1e-4)


def test_the_rivals_are_shared_nets() -> None:
    configs = CLAIMS["C16"].nets(BUDGETS["quick"])
    assert configs[:2] == (base(BUDGETS["quick"]), base(BUDGETS["quick"], norm="batch"))
    assert sorted(config.gaussian_penalty for config in configs) == [0] * 4 + [0.01] * 2 + [0.1] * 2 + [1.0] * 2
