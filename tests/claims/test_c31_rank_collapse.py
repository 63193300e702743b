"""C31 on tables for which the verdict is known, and its ranks against numpy."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from ics.claims import CLAIMS, Evidence, weigh
from ics.claims.c31_rank_collapse import MEASURES, rank_measures, ranks, through, width_exponents

SEEDS = range(4)
WIDTHS, LAYERS = (16, 64), range(1, 17)


def table(normed: float, plain: float, *, exponent: float = 0.5, decay: float = 0.0) -> dict[str, pd.DataFrame]:
    """Ranks of the widest net's last layers; with BatchNorm they fall with the layer as layer^-decay."""
    rows = []
    for net, activation, samples, width, layer, seed in product(
        ("BatchNorm", "standard"), ("linear", "relu"), (0.5, 4), WIDTHS, LAYERS, SEEDS
    ):
        rank = normed * (width / 64) ** exponent * (layer / 16) ** -decay if net == "BatchNorm" else plain
        rank *= 1 + 0.01 * seed
        rows.append(
            {"net": net, "seed": seed, "activation": activation, "samples_per_unit": samples, "width": width}
            | {"layer": layer, "activation_participation_ratio": rank / 2}
            | dict.fromkeys(MEASURES, rank)
        )
    return {"ranks": pd.DataFrame(rows)}


@pytest.mark.parametrize(
    ("tables", "outcome"),
    [
        (table(8.0, 1.0), "supported"),
        (table(1.0, 8.0, exponent=0.0, decay=1.0), "contradicted"),
        (table(8.0, 1.0, decay=1.0), "mixed"),  # it is only slower
        (table(8.0, 1.0, exponent=0.0), "mixed"),  # no width saves it
        (table(8.0, 6.0), "mixed"),  # there was no collapse
    ],
)
def test_collapse_prevented_or_not(tables: dict[str, pd.DataFrame], outcome: str) -> None:
    effects, verdict = weigh(CLAIMS["C31"], Evidence.of_frames(studies=tables))
    assert verdict.outcome == outcome
    assert len({effect.setting.partition(", 64")[0] for effect in effects}) == 4


def test_the_numbers_are_those_of_the_widest_net() -> None:
    effects, _ = weigh(CLAIMS["C31"], Evidence.of_frames(studies=table(8.0, 1.0, decay=1.0)))
    found = {effect.measure: effect.estimate.center for effect in effects}
    late, early = np.mean([16 / layer for layer in range(13, 17)]), np.mean([16 / layer for layer in range(5, 9)])
    assert found["participation_ratio_ratio"] == pytest.approx(8 * late)
    assert found["rank_kept"] == pytest.approx(late / early)
    assert found["width_exponent"] == pytest.approx(0.5)


def test_width_exponents() -> None:
    rows = pd.DataFrame({"net": "a", "seed": 0, "width": [4, 16, 64], "participation_ratio": [2.0, 4.0, 8.0]})
    assert width_exponents(rows)["a", 0] == pytest.approx(0.5)


def test_ranks_of_matrices_with_known_singular_values() -> None:
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(9, 4)))
    right, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    s = np.array([3.0, 2.0, 1.0, 0.5])
    found = rank_measures(torch.tensor(left * s @ right))
    assert found["participation_ratio"] == pytest.approx((s**2).sum() ** 2 / (s**4).sum())
    assert found["stable_rank"] == pytest.approx((s**2).sum() / 9)
    assert found["numerical_rank"] == 3  # a tenth of the mean of s^2 is 0.356, and 0.25 lies below
    line = rank_measures(torch.outer(torch.arange(1.0, 6), torch.ones(4)))
    assert line == {name: pytest.approx(1.0) for name in MEASURES}
    assert rank_measures(torch.eye(5)) == {name: pytest.approx(5.0) for name in MEASURES}


@pytest.mark.parametrize(("relu", "normed"), [(False, True), (True, False)])
def test_layers_against_numpy(relu: bool, normed: bool) -> None:
    inputs = torch.randn(12, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    layers = list(through(inputs, depth=3, relu=relu, normed=normed, random=torch.Generator().manual_seed(5)))
    again, hidden = torch.Generator().manual_seed(5), inputs.numpy()
    for values, after in layers:
        weight = torch.randn(4, 4, generator=again, dtype=torch.float64).numpy() / 2
        expected = hidden @ weight
        if normed:
            expected = (expected - expected.mean(axis=0)) / np.sqrt(expected.var(axis=0) + 1e-5)
        else:
            expected = expected / math.sqrt((expected**2).mean())
        hidden = np.maximum(expected, 0) if relu else expected
        np.testing.assert_allclose(values.numpy(), expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(after.numpy(), hidden, rtol=1e-12, atol=1e-14)


def test_a_net_that_sends_every_sample_to_zero_has_rank_zero() -> None:
    found = ranks(seed=0, depth=64, widths=[2], samples_per_unit=[4], num_measurements=8, draws=2)
    last = found[(found["activation"] == "relu") & (found["layer"] == 64)].groupby("net")[[*MEASURES]].max()
    assert last.loc["standard"].tolist() == [0.0, 0.0, 0.0]
    assert last.loc["BatchNorm"].min() >= 1.0
    assert rank_measures(torch.zeros(3, 2)) == dict.fromkeys(MEASURES, 0.0)


def test_a_deep_plain_net_does_collapse() -> None:
    rows = ranks(seed=0, depth=64, widths=[8], samples_per_unit=[4], num_measurements=4, draws=2)
    last = rows[(rows["layer"] == 64) & (rows["draw"] == 1)].set_index(["net", "activation"])
    assert sorted(rows["layer"].unique()) == [16, 32, 48, 64]
    assert last.loc["standard", "participation_ratio"].max() < 1.05
    assert last["participation_ratio"].between(1, 8).all()
    assert rows.groupby(["net", "activation", "layer"])["participation_ratio"].nunique().eq(2).mean() > 0.5
