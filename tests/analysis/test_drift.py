"""Drift between steps against numpy, numerical integration and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from ics import analysis
from ics.analysis.drift import gaussian_distances
from ics.errors import SelectionError, UsageError
from tests.analysis.synthetic import activation_row, activations_frame
from tests.analysis.synthetic_tables import assert_gathered, drift_frame, three

_random = np.random.default_rng(0)
FIRST = _random.standard_normal((500, 3)) * [1.0, 2.0, 0.1] + [0.0, 1.0, 5.0]
SECOND = _random.standard_normal((500, 3)) * [1.5, 1.0, 0.1] + [0.5, 1.0, 5.2]
THIRD = SECOND + 1


def frame_of(*arrays: np.ndarray, **keys: object) -> pd.DataFrame:
    return pd.DataFrame([activation_row(x, step=10 * n, **keys) for n, x in enumerate(arrays)])


@pytest.mark.parametrize(("mean", "variance"), [(0.7, 2.0), (-3.0, 0.2), (0.0, 1.0)])
def test_kullback_leibler_is_the_integral(mean: float, variance: float) -> None:
    now, reference = stats.norm(mean, np.sqrt(variance)), stats.norm(0.5, np.sqrt(1.5))
    integral = integrate.quad(lambda x: now.pdf(x) * (now.logpdf(x) - reference.logpdf(x)), -30, 30, limit=200)[0]
    distances = gaussian_distances(*(np.array([value]) for value in (mean, variance, 0.5, 1.5)))
    assert distances[2, 0] == pytest.approx(integral, abs=1e-8)


def test_per_channel_distances_are_numpys_means_over_channels() -> None:
    row = analysis.drift_between(frame_of(FIRST, SECOND)).iloc[0]
    then, now = (FIRST.mean(0), FIRST.var(0)), (SECOND.mean(0), SECOND.var(0))
    assert row["mean_shift"] == pytest.approx(np.mean(np.abs(now[0] - then[0]) / np.sqrt(then[1])))
    assert row["log_variance_ratio"] == pytest.approx(np.mean(np.abs(np.log(now[1] / then[1]))))
    assert (row["num_channels"], row["num_undefined"], row["null_reason"]) == (3, 0, None)
    truth = stats.wasserstein_distance(SECOND.ravel(), FIRST.ravel()) / FIRST.std()
    assert abs(row["wasserstein_1"] - truth) <= row["wasserstein_1_error"] < 0.3


def test_the_reference_is_chosen() -> None:
    frame = frame_of(FIRST, SECOND, THIRD)
    pairs = {
        reference: analysis.drift_between(frame, reference=reference)[["step", "reference_step"]].to_numpy().tolist()
        for reference in ("previous", "first", 10)
    }
    assert pairs == {"previous": [[10, 0], [20, 10]], "first": [[10, 0], [20, 0]], 10: [[0, 10], [20, 10]]}
    with pytest.raises(SelectionError, match=r"\(0, 10, 20, ...\), got 7"):
        analysis.drift_between(frame, reference=7)


def test_steps_are_ordered_and_runs_layers_and_sites_kept_apart() -> None:
    frames = [activations_frame(seed=seed).assign(run=f"r{seed}", net="n", seed=seed) for seed in (0, 1)]
    frame = pd.concat(frames)
    drift = analysis.drift_between(frame)
    shuffled = analysis.drift_between(frame.sample(frac=1, random_state=0))
    keys = ["run", "layer_index", "site", "step"]
    pd.testing.assert_frame_equal(
        drift.sort_values(keys, ignore_index=True), shuffled.sort_values(keys, ignore_index=True)
    )
    assert len(drift) == 2 * 4 * 2 * 3
    assert (drift["step"] - drift["reference_step"] == 10).all()


def test_the_same_values_have_not_drifted() -> None:
    row = analysis.drift_between(frame_of(FIRST, FIRST)).iloc[0]
    distances = ["mean_shift", "log_variance_ratio", "gaussian_kl", "wasserstein_1"]
    assert row[distances].tolist() == [0, 0, 0, 0]


def test_channels_without_variance_are_counted_and_not_averaged() -> None:
    dead = FIRST.copy()
    dead[:, 1] = 0
    row = analysis.drift_between(frame_of(dead, SECOND)).iloc[0]
    kept = [0, 2]
    expected = np.abs(SECOND.mean(0) - dead.mean(0))[kept] / dead.std(0)[kept]
    assert row["mean_shift"] == pytest.approx(expected.mean())
    assert (row["num_channels"], row["num_undefined"]) == (2, 1)


def test_undefined_is_null_with_a_reason() -> None:
    row = analysis.drift_between(frame_of(np.zeros((5, 2)), np.ones((5, 2)))).iloc[0]
    assert row[["mean_shift", "log_variance_ratio", "gaussian_kl", "wasserstein_1"]].isna().all()
    assert "no channel has a variance above 0" in row["null_reason"]
    assert "pooled variance" in row["null_reason"]
    changed = analysis.drift_between(frame_of(FIRST, SECOND[:, :2])).iloc[0]
    assert np.isnan(changed["mean_shift"])
    assert "number of channels differs" in changed["null_reason"]
    assert changed["wasserstein_1"] > 0


def test_pooled_moments_serve_where_there_are_no_channels_or_histograms() -> None:
    frame = frame_of(FIRST, SECOND)[["step", "layer", "layer_index", "call", "site", "mean", "m2"]]
    row = analysis.drift_between(frame).iloc[0]
    assert row["mean_shift"] == pytest.approx(abs(SECOND.mean() - FIRST.mean()) / FIRST.std())
    assert row["num_channels"] == 1
    assert np.isnan(row["wasserstein_1"])
    assert row["null_reason"] == "no histogram was recorded"


def test_a_single_step_has_no_drift_and_no_rows_are_an_error() -> None:
    assert analysis.drift_between(frame_of(FIRST)).empty
    with pytest.raises(UsageError, match="without any"):
        analysis.drift_between(frame_of(FIRST).iloc[:0])
    with pytest.raises(SelectionError, match="without m2"):
        analysis.drift_between(frame_of(FIRST).drop(columns="m2"))


def test_drift_is_gathered_by_place_and_reference():
    frame = three(drift_frame)
    gathered = analysis.drift_over_steps(frame, site="scaled")
    assert len(gathered) == 4 * 4 * (4 + 3)  # layers, measures, steps of the two references
    for row in gathered.to_dict("records"):
        keys = {name: row[name] for name in ("step", "layer", "reference")} | {"site": "scaled"}
        runs = frame[np.logical_and.reduce([frame[name] == value for name, value in keys.items()])]
        assert_gathered(row, "drift", runs[row["measure"]].to_numpy())
        assert_gathered(row, "floor", runs[f"floor_{row['measure']}"].to_numpy())
    with pytest.raises(SelectionError, match="'activation'; did you mean 'preactivation'"):
        analysis.drift_over_steps(frame, site="activation")
