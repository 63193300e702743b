"""Estimates: intervals against scipy and against what they claim to cover, for few seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ics.claims.method.estimates import estimate, seeds_needed

INF, NAN = math.inf, math.nan


def test_one_value_has_no_interval() -> None:
    found = estimate([3.0])
    assert (found.center, found.n, found.confidence) == (3.0, 1, 0.0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_value_has_no_estimate() -> None:
    found = estimate([NAN, NAN])
    assert math.isnan(found.center)
    assert (found.n, found.num_undefined, found.confidence) == (0, 2, 0.0)


def test_undefined_values_are_counted_and_take_no_part() -> None:
    assert estimate([1.0, NAN, 2.0, 4.0]).n == 3
    known, with_gap = estimate([1.0, 2.0, 4.0]), estimate([1.0, NAN, 2.0, 4.0])
    assert (with_gap.center, with_gap.low, with_gap.high) == (known.center, known.low, known.high)
    assert with_gap.num_undefined == 1


@pytest.mark.parametrize("n", [2, 3, 5, 8, 30])
def test_the_interval_holds_that_of_student_and_that_of_the_bootstrap(n: int) -> None:
    values = np.random.default_rng(n).gamma(2.0, size=n)
    found = estimate(values)
    student = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    plain = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert found.center == pytest.approx(values.mean())
    assert found.low <= student[0] + 1e-12
    assert found.high >= student[1] - 1e-12
    # The plain bootstrap has a resampling error of its own.
    assert found.low <= plain.low + 0.02
    assert found.high >= plain.high - 0.02


def test_equal_values_give_an_interval_without_width() -> None:
    found = estimate([0.25] * 4)
    assert (found.center, found.low, found.high, found.confidence) == (0.25, 0.25, 0.25, 0.95)


def test_ratios_are_averaged_by_their_logarithms() -> None:
    found, inverse = (estimate(values, logarithmic=True) for values in ([0.5, 1.0, 4.0], [2.0, 1.0, 0.25]))
    assert found.center == pytest.approx(2 ** (1 / 3))
    assert found.low < 1 < found.high
    # Which of two nets stands below the line changes nothing.
    assert inverse.center == pytest.approx(1 / found.center)


@pytest.mark.parametrize(("n", "confidence"), [(2, 0.5), (3, 0.75), (5, 0.9375), (6, 0.96875)])
def test_an_infinite_value_leaves_the_median_and_order_statistics(n: int, confidence: float) -> None:
    values = [float(number) for number in range(n - 1)] + [INF]
    found = estimate(values)
    assert (found.low, found.high) == (0.0, INF)
    assert found.confidence == pytest.approx(confidence)
    assert found.center == (INF if n == 2 else pytest.approx(np.median([*values[:-1], 1e9])))


def test_many_seeds_leave_out_the_extremes() -> None:
    values = [*np.linspace(0.0, 1.0, 29).tolist(), INF]
    found = estimate(values)
    assert found.high < INF
    assert found.confidence >= 0.95
    ranks = [k for k in range(1, 15) if 1 - 2 * stats.binom.cdf(k - 1, 30, 0.5) >= 0.95]
    assert found.low == sorted(values)[ranks[-1] - 1]


def test_ratios_of_nothing_and_of_everything() -> None:
    found = estimate([0.0, 1.0, INF], logarithmic=True)
    assert (found.center, found.low, found.high) == (pytest.approx(1.0), 0.0, INF)
    assert estimate([INF, INF, INF]).low == INF


def coverage(draw, true: float, *, n: int, times: int) -> float:
    """How often the interval holds the truth."""
    hits = 0
    for seed in range(times):
        found = estimate(draw(np.random.default_rng((seed, n)), n))
        hits += found.low <= true <= found.high
    return hits / times


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
def test_it_covers_what_it_says_for_normal_values(n: int) -> None:
    # 0.95 less three standard errors of 600 trials
    assert coverage(lambda rng, size: rng.normal(2.0, 3.0, size), 2.0, n=n, times=600) >= 0.95 - 3 * 0.0089


@pytest.mark.slow
@pytest.mark.parametrize(("n", "least"), [(3, 0.86), (5, 0.86), (10, 0.88)])
def test_what_it_covers_for_skewed_values(n: int, least: float) -> None:
    assert coverage(lambda rng, size: rng.exponential(1.0, size), 1.0, n=n, times=600) >= least


def test_the_plain_bootstrap_would_cover_far_less() -> None:
    """Why it is widened: with three seeds the plain one covers about 75 % of what it says."""
    hits = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=3)
        plain = stats.bootstrap((values,), np.mean, n_resamples=999, method="percentile", rng=np.random.default_rng(1))
        hits += plain.confidence_interval.low <= 0 <= plain.confidence_interval.high
    assert hits / 200 < 0.85


def test_seeds_needed_is_the_sample_size_of_the_textbook() -> None:
    # s = 1, distance 1: n with (t_.975 + t_.8) / sqrt(n) <= 1, by hand: 9 gives 1.065, 10 gives 0.994
    values = [0.0, 1.0, 2.0]
    assert np.std(values, ddof=1) == 1.0
    assert seeds_needed(values, border=0.0) == 10
    assert seeds_needed(values, border=2.0) == 10
    assert seeds_needed([number * 0.1 for number in values], border=0.2) == 10


def test_seeds_needed_grows_towards_the_border_and_ends() -> None:
    far, near = (seeds_needed([0.0, 1.0, 2.0], border=border) for border in (3.0, 1.4))
    assert far is not None
    assert near is not None
    assert far < near
    assert seeds_needed([0.0, 1.0, 2.0], border=1.0) is None
    assert seeds_needed([0.0, 1.0, 2.0], border=1.001) is None
    assert seeds_needed([1.0], border=0.0) == 3


def test_infinite_values_need_five_seeds_on_one_side() -> None:
    assert seeds_needed([INF, INF, 5.0], border=1.0) == 5
    assert seeds_needed([INF, INF, 0.5], border=1.0) is None
    assert seeds_needed([INF, 2.0, 5.0], border=1.0, logarithmic=True) == 5


@pytest.mark.slow
def test_the_power_is_what_it_says() -> None:
    """With as many seeds as it asks for, about 80 % of the intervals keep clear of the border."""
    n = seeds_needed([0.0, 1.0, 2.0], border=0.0)
    assert n is not None
    clear = [
        stats.ttest_1samp(np.random.default_rng(seed).normal(1.0, 1.0, n), 0).pvalue < 0.05 for seed in range(2000)
    ]
    assert np.mean(clear) == pytest.approx(0.80, abs=0.05)
