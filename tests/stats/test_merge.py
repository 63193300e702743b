"""Merging: associative, equal to the whole, and nothing changes by merging with no values."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ics.stats import Moments, channel_moments, merge, pool

COUNTS = ("count", "zero_count", "negative_count", "saturated_count", "nonfinite_count")
EXTREMA = ("minimum", "maximum")
NUMBERS = ("mean", "m2", "m3", "m4")

values = st.floats(-1e3, 1e3) | st.sampled_from([0.0, math.nan, math.inf, -math.inf])
rows = st.lists(st.tuples(values, values), max_size=6)  # two channels


def measure(part: list[tuple[float, float]]) -> Moments:
    x = torch.tensor(part, dtype=torch.float64).reshape(-1, 2)
    return channel_moments(x, channel_axis=1, saturation=(0.0, 10.0))


def assert_same(a: Moments, b: Moments) -> None:
    """Counts and extrema exactly; mean and central moments to rounding, relative to the largest value."""
    for name in COUNTS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in EXTREMA:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0, equal_nan=True)
    largest = torch.maximum(a.maximum.abs(), a.minimum.abs()).nan_to_num(1.0)
    for power, name in enumerate(NUMBERS, 1):
        difference = (getattr(a, name) - getattr(b, name)).abs()
        assert torch.equal(getattr(a, name).isnan(), a.count == 0), name
        assert bool((difference.nan_to_num(0.0) <= 1e-13 * largest**power + 1e-300).all()), name


@settings(max_examples=100, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4))
def test_merging_is_associative_and_equals_the_whole(parts):
    moments = [measure(part) for part in parts]
    whole = measure([row for part in parts for row in part])
    from_the_left = functools.reduce(merge, moments)
    from_the_right = functools.reduce(lambda right, left: merge(left, right), reversed(moments))
    assert_same(from_the_left, whole)
    assert_same(from_the_right, whole)


@settings(max_examples=50, deadline=None)
@given(rows)
def test_merging_with_no_values_changes_nothing(part):
    moments, none = measure(part), measure([])
    for merged in (merge(moments, none), merge(none, moments)):
        for name in COUNTS + EXTREMA + NUMBERS:
            torch.testing.assert_close(getattr(merged, name), getattr(moments, name), rtol=0, atol=0, equal_nan=True)


@settings(max_examples=50, deadline=None)
@given(rows)
def test_pooling_channels_equals_one_channel_of_all_values(part):
    whole = channel_moments(
        torch.tensor(part, dtype=torch.float64).reshape(-1, 1), channel_axis=1, saturation=(0.0, 10.0)
    )
    pooled = pool(measure(part))
    assert_same(Moments(**{name: getattr(pooled, name)[None] for name in Moments.__slots__}), whole)


def test_micro_batches_far_from_each_other_keep_their_digits():
    near, far = torch.randn(50, 1, dtype=torch.float64), torch.randn(50, 1, dtype=torch.float64) + 1e6
    merged = merge(channel_moments(near, channel_axis=1), channel_moments(far, channel_axis=1))
    both = torch.cat([near, far])
    assert float(merged.m2) == pytest.approx(float(both.var(unbiased=False)), rel=1e-12)
    assert merged.saturated_count is None
