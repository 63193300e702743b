"""Densities against the distributions the values were drawn from; mass is accounted for to the last value."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ics import analysis
from ics.errors import SelectionError, UsageError
from tests.analysis.synthetic import activation_row


def frame_of(*arrays: np.ndarray, **keys: object) -> pd.DataFrame:
    return pd.DataFrame([activation_row(x.reshape(-1, 1), step=10 * n, **keys) for n, x in enumerate(arrays)])


def integral(points: pd.DataFrame) -> float:
    return float(points["density"].sum() * (points["x"].iloc[1] - points["x"].iloc[0]))


SAMPLES = {
    "normal": np.random.default_rng(0).standard_normal(20_000),
    "relu": np.maximum(np.random.default_rng(1).standard_normal(20_000), 0),
    "cauchy": np.random.default_rng(2).standard_cauchy(20_000),
    "far from 0": 1000 + 100 * np.random.default_rng(3).standard_normal(20_000),
    "constant": np.full(100, -2.5),
    "saturated": np.clip(3 * np.random.default_rng(4).standard_normal(5000), -1, 1),
    "few": np.array([0.0, 1.0, 2.0]),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_mass_is_neither_made_nor_lost(name: str) -> None:
    points = analysis.densities(frame_of(SAMPLES[name]))
    first = points.iloc[0]
    assert (points["density"] >= 0).all()
    assert integral(points) + first["zero_fraction"] + first["below"] + first["above"] == pytest.approx(1, abs=1e-9)
    assert first["zero_fraction"] == pytest.approx(np.mean(SAMPLES[name] == 0))


def test_a_normal_density_is_recovered() -> None:
    x = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    points = analysis.densities(frame_of(x))
    np.testing.assert_allclose(points["density"], stats.norm.pdf(points["x"]), atol=0.012)


def test_relu_zeros_stand_apart_and_leave_no_spike() -> None:
    points = analysis.densities(frame_of(SAMPLES["relu"]))
    assert points["zero_fraction"].iloc[0] == pytest.approx(0.5, abs=0.02)
    assert points["density"].max() == pytest.approx(stats.norm.pdf(0), rel=0.15)
    assert (points.loc[points["x"] < 0, "density"] == 0).all()


def test_zeros_of_a_sampled_histogram_leave_no_spike_either() -> None:
    frame = frame_of(SAMPLES["relu"])
    # The histogram is of a sample that happened to hold a few more zeros than all values do.
    frame = frame.assign(count=10**6, zero_fraction=frame["zero_fraction"] - 0.005)
    assert analysis.densities(frame)["density"].max() < 1.3 * stats.norm.pdf(0)


def test_a_sample_that_caught_only_zeros_says_nothing_about_the_rest() -> None:
    frame = frame_of(np.zeros(1000)).assign(count=10**6, zero_fraction=0.9995, minimum=0.0, maximum=3.0)
    assert (analysis.densities(frame)["density"] == 0).all()
    # while a histogram of all values does show that some are not 0, though too small to tell apart
    whole = frame_of(np.concatenate([np.zeros(900), np.full(100, 1e-12)]))
    assert integral(analysis.densities(whole)) == pytest.approx(0.1)


def test_heavy_tails_do_not_squeeze_the_bulk_and_are_stated() -> None:
    x = SAMPLES["cauchy"]
    points = analysis.densities(frame_of(x))
    low, high = points["x"].min(), points["x"].max()
    assert -15 < low < -4
    assert 4 < high < 15
    outside = np.mean((x < low) | (x > high))
    assert points[["below", "above"]].iloc[0].sum() == pytest.approx(outside, abs=0.01)


def test_one_exploding_step_does_not_stretch_the_axis() -> None:
    normal = SAMPLES["normal"]
    points = analysis.densities(frame_of(normal, 1.1 * normal, 1e12 * normal))
    assert points["x"].max() < 40
    exploded = points[points["step"] == 20].iloc[0]
    assert exploded["below"] + exploded["above"] > 0.99


def test_grid_is_shared_over_steps_and_seeds_and_grows_with_the_values() -> None:
    random = np.random.default_rng(5)
    frames = [
        frame_of(random.standard_normal(20_000), random.normal(1, 2, 20_000)).assign(
            run=f"a-{seed}", net="a", seed=seed
        )
        for seed in (0, 1)
    ]
    points = analysis.densities(pd.concat(frames), num_points=100)
    grids = {tuple(rows["x"]) for _, rows in points.groupby(["run", "step"])}
    assert len(grids) == 1
    many, few = len(grids.pop()), analysis.densities(frame_of(random.standard_normal(300))).shape[0]
    assert 24 <= few < many <= 102


def test_steps_are_chosen_evenly_or_by_name() -> None:
    frame = frame_of(*[SAMPLES["few"]] * 9)
    assert sorted(set(analysis.densities(frame, steps=3)["step"])) == [0, 40, 80]
    assert sorted(set(analysis.densities(frame, steps=[10, 70])["step"])) == [10, 70]
    with pytest.raises(UsageError, match=r"recorded \(0, 10, 20"):
        analysis.densities(frame, steps=[11])


def test_a_layer_of_only_zeros_has_no_density_and_no_height() -> None:
    ridges = analysis.ridges(frame_of(np.zeros(50), SAMPLES["relu"]))
    dead = ridges[ridges["step"] == 0]
    assert (dead["density"] == 0).all()
    assert dead["height"].isna().all()
    assert (dead["zero_fraction"] == 1).all()


def test_ridges_are_medians_and_extremes_over_runs() -> None:
    random = np.random.default_rng(6)
    frame = pd.concat(
        [frame_of(random.standard_normal(2000)).assign(run=f"a-{seed}", net="a", seed=seed) for seed in range(3)]
    )
    points, ridges = analysis.densities(frame), analysis.ridges(frame)
    per_run = points.pivot_table(index="x", columns="run", values="density")
    np.testing.assert_array_equal(ridges["density"], np.median(per_run, axis=1))
    np.testing.assert_array_equal(ridges["density_low"], per_run.min(axis=1))
    np.testing.assert_array_equal(ridges["density_high"], per_run.max(axis=1))
    assert ridges["height"].max() == 1
    assert set(ridges["num_runs"]) == {3}


def test_rows_without_histograms_are_a_clear_error() -> None:
    frame = frame_of(SAMPLES["few"])
    with pytest.raises(UsageError, match="histogram=True"):
        analysis.densities(frame.assign(histogram=None, histogram_bucket=None))
    with pytest.raises(SelectionError, match="without zero_fraction"):
        analysis.densities(frame.drop(columns="zero_fraction"))
