"""C07 on tables for which the verdict is known, in both directions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from ics.claims import CLAIMS, Evidence, weigh
from ics.claims.c07_same_over_time import correlation, spread

SEEDS = range(4)


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
