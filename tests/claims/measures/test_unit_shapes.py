"""Shapes of units against scipy, one unit at a time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from ics.claims.measures.unit_shapes import Shapes, change, describe, of_normal_draws

rng = np.random.default_rng(0)
UNITS = np.stack(
    [
        rng.standard_normal(501),
        np.maximum(rng.standard_normal(501), 0.0),
        rng.exponential(size=501) - 7.0,
        np.where(rng.random(501) < 0.1, rng.exponential(size=501), 0.0),
        1e3 + 1e-2 * rng.uniform(size=501),
    ]
)


def test_moments_and_ks_are_those_of_scipy() -> None:
    found = describe(UNITS)
    assert found["skewness"] == pytest.approx(np.abs(stats.skew(UNITS, axis=1)), rel=1e-6)
    assert found["excess_kurtosis"] == pytest.approx(np.abs(stats.kurtosis(UNITS, axis=1)), rel=1e-6)
    ks = [stats.kstest(stats.zscore(unit), "norm").statistic for unit in UNITS]
    assert found["ks"] == pytest.approx(ks, rel=1e-6)


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 0.0, 0.0, 1.0], [-2.0, -1.0, 0.5, 0.75, 4.0]])
def test_wasserstein_2_is_the_integral_over_quantiles(values: list[float]) -> None:
    z = np.sort(stats.zscore(values))
    edges = np.arange(len(z) + 1) / len(z)
    pieces = [
        integrate.quad(lambda u, here=here: (here - stats.norm.ppf(u)) ** 2, low, high)[0]
        for here, low, high in zip(z, edges, edges[1:], strict=False)
    ]
    assert describe(np.array([values]))["wasserstein_2"] == pytest.approx([np.sqrt(sum(pieces))], abs=1e-6)


def test_density_and_zeros_by_hand() -> None:
    found = describe(np.array([[1.0, 1.0, -1.0, 1.0], [0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0]]))
    assert found["density"] == pytest.approx([1.0, 0.25, np.nan], nan_ok=True)
    assert found["zero_fraction"].tolist() == [0.0, 0.75, 1.0]
    assert describe(rng.standard_normal((1, 100_000)))["density"] == pytest.approx([2 / np.pi], rel=0.02)


def test_a_change_is_that_of_scipy_and_an_affine_map_makes_none() -> None:
    other = UNITS**3 + 2 * UNITS
    found = change(Shapes.of(UNITS), Shapes.of(other))
    distances = [
        stats.wasserstein_distance(stats.zscore(a), stats.zscore(b)) for a, b in zip(UNITS, other, strict=True)
    ]
    assert found["shape_change"] == pytest.approx(distances, rel=1e-6)
    moved = np.abs(stats.skew(other, axis=1) - stats.skew(UNITS, axis=1))
    assert found["skewness_change"] == pytest.approx(moved, abs=1e-6)
    same = change(Shapes.of(UNITS), Shapes.of(3.0 * UNITS - 5.0))
    assert all(np.abs(numbers).max() < 1e-6 for numbers in same.values())
    mirrored = change(Shapes.of(UNITS), Shapes.of(-UNITS))
    assert mirrored["skewness_change"] == pytest.approx(2 * np.abs(stats.skew(UNITS, axis=1)), rel=1e-6)


def test_a_constant_unit_has_no_shape_and_a_lost_one_is_infinitely_far() -> None:
    lost = [[1.0, np.nan, 2.0], [1.0, np.inf, 2.0]]
    values = np.array([[1.0, 1.0, 1.0], [1.0, 1.0 + 1e-9, 1.0], *lost, [1.0, 2.0, 4.0]])
    shapes = Shapes.of(values)
    assert shapes.constant.tolist() == [True, True, False, False, False]
    moved = change(Shapes.of(np.tile([0.0, 1.0, 2.0], (5, 1))), shapes)
    for numbers in (*moved.values(), describe(values)["ks"]):
        assert np.isnan(numbers[:2]).all()
        assert np.isposinf(numbers[2:4]).all()
        assert np.isfinite(numbers[4])


def test_normal_draws_are_near_normal_and_the_nearer_the_more() -> None:
    # The expected sup |F - Phi| of n draws with fitted mean and variance is about 0.63 / sqrt(n) (Lilliefors 1967).
    assert of_normal_draws(400)["ks"] == pytest.approx(0.63 / 20, rel=0.1)
    assert of_normal_draws(1600)["ks"] == pytest.approx(0.63 / 40, rel=0.1)
