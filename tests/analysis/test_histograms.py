"""Histogram arithmetic against numpy and scipy on the values themselves, and against numerical integration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ics.analysis import histograms
from ics.buckets import LARGEST, RELATIVE_ERROR, SMALLEST
from tests.analysis.synthetic import histogram_of

_random = np.random.default_rng(0)
SAMPLES = {
    "normal": _random.standard_normal(4000),
    "off centre": 3 + 2 * _random.standard_normal(4000),
    "relu": np.maximum(_random.standard_normal(4000), 0),
    "heavy tails": _random.standard_cauchy(4000),
    "two humps": np.concatenate([_random.normal(-4, 0.5, 2000), _random.normal(5, 1, 1500)]),
    "few": np.array([-2.0, 0.0, 0.5, 0.5, 7.0]),
    "tiny": 1e-6 * _random.standard_normal(1000),
}


def made_from(x: np.ndarray) -> histograms.Histogram:
    buckets, counts = histogram_of(x)
    made = histograms.from_cells(buckets, counts, minimum=x.min(), maximum=x.max())
    assert made is not None
    return made


def inverse(made: histograms.Histogram, u: np.ndarray) -> np.ndarray:
    """The quantile function of values spread evenly over their buckets, written out once more."""
    share = np.cumsum(made.counts) / made.counts.sum()
    bucket = np.minimum(np.searchsorted(share, u), len(share) - 1)
    before = np.concatenate([[0.0], share[:-1]])[bucket]
    inside = (u - before) / (share[bucket] - before)
    return made.lower[bucket] + inside * (made.upper - made.lower)[bucket]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("q", [0.001, 0.15, 0.5, 0.85, 0.999])
def test_quantiles_keep_their_stated_relative_error(name: str, q: float) -> None:
    x = SAMPLES[name]
    truth = np.quantile(x, q, method="inverted_cdf")
    assert abs(histograms.quantile(made_from(x), q) - truth) <= RELATIVE_ERROR * abs(truth) + SMALLEST


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False), min_size=1, max_size=40),
    st.integers(1, 39),
)
def test_any_order_statistic_is_within_the_bound(values: list[float], rank: int) -> None:
    x = np.sort(np.array(values))
    rank = min(rank, len(x))
    got = histograms.quantile(made_from(x), rank / len(x))
    assert abs(got - x[rank - 1]) <= RELATIVE_ERROR * abs(x[rank - 1]) + SMALLEST


def test_extrema_are_exact_and_the_overflow_bucket_is_not_guessed() -> None:
    made = made_from(np.array([-3.7, 1.0, 2 * LARGEST, 3 * LARGEST]))
    assert histograms.quantile(made, 0.0) == -3.7
    assert histograms.quantile(made, 1.0) == 3 * LARGEST
    assert np.isnan(histograms.quantile(made, 0.75))


@pytest.mark.parametrize("name", SAMPLES)
def test_kolmogorov_smirnov_lies_between_its_bounds(name: str) -> None:
    x = SAMPLES[name]
    mean, std = x.mean(), x.std()
    low, high = histograms.kolmogorov_smirnov(made_from(x), mean=mean, std=std)
    truth = stats.kstest(x, stats.norm(mean, std).cdf).statistic
    assert low - 1e-12 <= truth <= high + 1e-12
    if len(x) > 100:
        assert high - low < 0.05 or name == "heavy tails"


@pytest.mark.parametrize("name", SAMPLES)
def test_wasserstein_2_equals_the_integral_over_quantiles(name: str) -> None:
    x = SAMPLES[name]
    mean, std, made = x.mean(), x.std(), made_from(x)
    # int_0^1 f(u) du with u = Phi(z), so that the tails of the normal distribution are integrated where they lie.
    z = (np.arange(1_000_000) + 0.5) / 1_000_000 * 16 - 8
    weight = stats.norm.pdf(z) * 16 / 1_000_000
    truth = np.sqrt(np.sum(weight * ((inverse(made, stats.norm.cdf(z)) - mean) / std - z) ** 2))
    assert histograms.wasserstein_2_to_normal(made, mean=mean, std=std) == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize("name", ["normal", "off centre", "relu", "two humps", "tiny"])
def test_wasserstein_2_is_that_of_the_values_within_the_resolution(name: str) -> None:
    x = np.sort(SAMPLES[name])
    mean, std, n = x.mean(), x.std(), len(x)
    z = stats.norm.ppf((np.arange(n * 20) + 0.5) / (n * 20)).reshape(n, 20)
    truth = np.sqrt(np.mean(((x[:, None] - mean) / std - z) ** 2))
    made = made_from(x)
    got = histograms.wasserstein_2_to_normal(made, mean=mean, std=std)
    assert abs(got - truth) <= histograms.resolution(made) / std + 1e-3


@pytest.mark.parametrize(("one", "other"), [("normal", "off centre"), ("relu", "normal"), ("few", "two humps")])
def test_wasserstein_1_is_scipys_within_the_resolution_and_symmetric(one: str, other: str) -> None:
    a, b = made_from(SAMPLES[one]), made_from(SAMPLES[other])
    got = histograms.wasserstein_1(a, b)
    truth = stats.wasserstein_distance(SAMPLES[one], SAMPLES[other])
    assert abs(got - truth) <= histograms.resolution(a) + histograms.resolution(b)
    assert got == pytest.approx(histograms.wasserstein_1(b, a), rel=1e-12)


def test_wasserstein_1_equals_the_integral_between_quantile_functions_that_cross() -> None:
    a, b = made_from(SAMPLES["two humps"]), made_from(SAMPLES["normal"])
    u = (np.arange(400_000) + 0.5) / 400_000
    truth = np.mean(np.abs(inverse(a, u) - inverse(b, u)))
    assert histograms.wasserstein_1(a, b) == pytest.approx(truth, rel=1e-5)


def test_wasserstein_1_of_a_spread_and_its_middle_is_a_quarter_of_its_width() -> None:
    spread = histograms.from_cells([513], [8], minimum=1.0, maximum=1.0625)
    middle = histograms.from_cells([513], [5], minimum=1.03125, maximum=1.03125)
    assert spread is not None
    assert middle is not None
    assert histograms.wasserstein_1(spread, middle) == pytest.approx(1 / 64)


def test_wasserstein_1_of_equal_histograms_is_0_and_of_constants_their_distance() -> None:
    normal = made_from(SAMPLES["normal"])
    assert histograms.wasserstein_1(normal, normal) == 0
    two, five = made_from(np.full(10, 2.0)), made_from(np.full(7, 5.0))
    assert histograms.wasserstein_1(two, five) == 3.0


@pytest.mark.parametrize("cells", [(None, None), ([], []), ([3], [0]), (float("nan"), float("nan"))])
def test_a_row_without_counted_values_has_no_histogram(cells: tuple) -> None:
    assert histograms.from_cells(*cells, minimum=float("nan"), maximum=float("nan")) is None


def test_buckets_in_any_order_make_the_same_histogram() -> None:
    x = SAMPLES["off centre"]
    buckets, counts = histogram_of(x)
    shuffled = histograms.from_cells(buckets[::-1], counts[::-1], minimum=x.min(), maximum=x.max())
    assert shuffled is not None
    assert np.array_equal(shuffled.cumulative, made_from(x).cumulative)
