from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ics.buckets import LARGEST, NUM_BUCKETS, OVERFLOW, RELATIVE_ERROR, SMALLEST, bucket_edges
from ics.errors import UsageError
from ics.stats import histogram


def slow_bucket(value: float) -> int:
    """Search all edges: lower <= |x| < upper."""
    magnitude = abs(value)
    for bucket in range(OVERFLOW + 1):
        lower, upper = bucket_edges(bucket)
        if max(lower, 0.0) <= magnitude < upper:
            return int(math.copysign(bucket, value)) if bucket else 0
    raise AssertionError(value)


EDGES = [edge for bucket in (1, 2, 16, 17, 512, 513, 1024) for edge in bucket_edges(bucket)]
CASES = [0.0, -0.0, 1e-45, SMALLEST / 2, SMALLEST, 1.0, -1.0, 1.0625, 65504.0, LARGEST, -LARGEST, 3e38, *EDGES]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_value_falls_where_the_edges_say(dtype):
    values = torch.tensor(CASES, dtype=dtype)
    values = torch.cat([values, torch.nextafter(values, torch.tensor(-math.inf, dtype=dtype)), -values])
    for value in values:
        counts = histogram(value.reshape(1))
        assert counts.nonzero().flatten().tolist() == [slow_bucket(float(value)) + OVERFLOW], float(value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_random_values_against_the_slow_search(dtype):
    x = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (x * 10.0 ** torch.arange(-4, 2, dtype=torch.float64).repeat(10)).to(dtype)
    expected = torch.zeros(NUM_BUCKETS, dtype=torch.int64)
    for value in x:
        expected[slow_bucket(float(value)) + OVERFLOW] += 1
    assert torch.equal(histogram(x), expected)


def test_nan_and_infinity_are_left_to_their_own_count():
    counts = histogram(torch.tensor([math.nan, math.inf, -math.inf, 2.0]))
    assert int(counts.sum()) == 1


def test_histograms_add_up_exactly():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(histogram(x[:300]) + histogram(x[300:]), histogram(x))


def test_a_sample_is_of_fixed_stride_and_bounded():
    x = torch.arange(1.0, 1001.0)
    counts = histogram(x, max_values=100)
    assert torch.equal(counts, histogram(x[::11]))  # 10 is even, and would meet the same columns again and again
    assert int(histogram(x, max_values=None).sum()) == 1000


def test_integers_are_refused():
    with pytest.raises(UsageError, match="floating point"):
        histogram(torch.zeros(3, dtype=torch.int64))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.15, 0.5, 0.85, 0.99]), st.sampled_from([1e-3, 1.0, 1e4]))
def test_quantiles_lie_within_the_stated_relative_error(seed, q, scale):
    values = np.random.default_rng(seed).standard_t(3, size=401) * scale
    counts = histogram(torch.from_numpy(values)).numpy()
    exact = np.sort(values)[math.ceil(q * values.size) - 1]
    bucket = int(np.searchsorted(np.cumsum(counts), math.ceil(q * values.size))) - OVERFLOW
    middle = sum(bucket_edges(bucket)) / 2
    assert abs(middle - exact) <= RELATIVE_ERROR * abs(exact) * (1 + 1e-12)
