"""Moments, quantiles and normality against numpy and scipy on the values themselves."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ics import analysis
from ics.errors import SelectionError, UsageError
from tests.analysis.synthetic import activation_row


def frame_of(*arrays: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame([activation_row(x, step=step) for step, x in enumerate(arrays)])


def test_moments_are_scipys_pooled_and_per_channel() -> None:
    x = np.random.default_rng(0).gamma(2.0, size=(300, 4)) * [1, 2, 3, 1e-5]
    row = analysis.moments(frame_of(x)).iloc[0]
    assert row["std"] == pytest.approx(x.std())
    assert row["skewness"] == pytest.approx(stats.skew(x.ravel()))
    assert row["excess_kurtosis"] == pytest.approx(stats.kurtosis(x.ravel()))
    np.testing.assert_allclose(row["channel_std"], x.std(axis=0))
    np.testing.assert_allclose(row["channel_skewness"], stats.skew(x, axis=0))
    np.testing.assert_allclose(row["channel_excess_kurtosis"], stats.kurtosis(x, axis=0), atol=1e-9)


def test_tiny_values_keep_their_shape_and_constants_have_none() -> None:
    x = np.random.default_rng(1).gamma(2.0, size=(300, 1))
    shape = analysis.moments(frame_of(1e-60 * x, np.full((5, 2), 3.0)))
    assert shape["skewness"][0] == pytest.approx(stats.skew(x.ravel()))
    assert shape["std"][1] == 0
    assert np.isnan(shape["skewness"][1])
    assert np.isnan(shape["excess_kurtosis"][1])
    assert np.isnan(shape["channel_skewness"][1]).all()


def test_an_affine_map_changes_no_standardised_moment() -> None:
    x = np.random.default_rng(2).gamma(2.0, size=(400, 3))
    shape = analysis.moments(frame_of(x, 5 - 3 * x))
    assert shape["skewness"][1] == pytest.approx(-shape["skewness"][0])
    assert shape["excess_kurtosis"][1] == pytest.approx(shape["excess_kurtosis"][0])


def test_null_moments_stay_null() -> None:
    frame = pd.DataFrame({"m2": [np.nan], "m3": [np.nan], "m4": [np.nan], "channel_m2": [None]})
    frame = frame.assign(channel_m3=[None], channel_m4=[None])
    shape = analysis.moments(frame)
    assert shape[["std", "skewness", "excess_kurtosis"]].isna().all(axis=None)
    assert len(shape["channel_std"][0]) == 0


def test_quantile_columns_follow_the_values() -> None:
    x = np.random.default_rng(3).normal(2, 1, size=(500, 2))
    row = analysis.quantiles(frame_of(x), q=(0, 0.15, 0.5, 0.985, 1)).iloc[0]
    assert row["q0"] == x.min()
    assert row["q100"] == x.max()
    for name, q in (("q15", 0.15), ("q50", 0.5), ("q98.5", 0.985)):
        assert row[name] == pytest.approx(np.quantile(x, q, method="inverted_cdf"), rel=1 / 32)


def test_quantiles_of_a_row_without_histogram_are_null() -> None:
    frame = frame_of(np.ones((3, 1))).assign(histogram=[None], histogram_bucket=[None])
    assert analysis.quantiles(frame)[["q15", "q50", "q85"]].isna().all(axis=None)


def test_normality_tells_a_normal_from_a_skewed_distribution() -> None:
    random = np.random.default_rng(4)
    normal, relu = random.standard_normal((2000, 3)), np.maximum(random.standard_normal((2000, 3)), 0)
    found = analysis.normality(frame_of(normal, relu))
    for row, x in zip(found.itertuples(), (normal, relu), strict=True):
        truth = stats.kstest(x.ravel(), stats.norm(x.mean(), x.std()).cdf).statistic
        assert row.ks - 1e-12 <= truth <= row.ks_upper + 1e-12
    assert found["ks"][0] < 0.02 < 0.2 < found["ks"][1]
    assert found["wasserstein_2"][0] < 0.1 < 0.4 < found["wasserstein_2"][1]
    assert found["wasserstein_2_error"][0] < 0.1
    assert found["num_values"].tolist() == [6000, 6000]
    assert found["normality_reason"].isna().all()


def test_pooling_makes_a_mixture_while_each_channel_is_normal() -> None:
    x = np.random.default_rng(5).standard_normal((4000, 2)) + np.array([-4, 4])
    row = analysis.normality(frame_of(x)).iloc[0]
    assert row["excess_kurtosis"] < -1.5
    assert row["channel_excess_kurtosis"] < 0.2
    assert row["ks"] > 0.1


def test_what_the_buckets_cannot_show_is_null_with_a_reason() -> None:
    random = np.random.default_rng(6)
    narrow, constant = 100 + 1e-3 * random.standard_normal((500, 2)), np.full((5, 1), 2.0)
    without = frame_of(random.standard_normal((50, 1))).assign(histogram=[None], histogram_bucket=[None])
    found = analysis.normality(pd.concat([frame_of(narrow, constant), without], ignore_index=True))
    assert found[["ks", "ks_upper", "wasserstein_2", "wasserstein_2_error"]].isna().all(axis=None)
    reasons = found["normality_reason"].tolist()
    assert "wider than half a standard deviation" in reasons[0]
    assert "variance is 0" in reasons[1]
    assert "no histogram" in reasons[2]


def test_mistakes_are_said_in_one_sentence() -> None:
    frame = frame_of(np.ones((3, 1)))
    with pytest.raises(SelectionError, match="without m2"):
        analysis.moments(frame.drop(columns="m2"))
    with pytest.raises(UsageError, match="without any"):
        analysis.normality(frame.iloc[:0])
    with pytest.raises(UsageError, match="between 0 and 1, got 15"):
        analysis.quantiles(frame, q=(15, 50))
    with pytest.raises(UsageError, match=r"got dict; type runs\.table\('activations'\)"):
        analysis.moments({})  # type: ignore[arg-type]
