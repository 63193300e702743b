"""Histograms against a search through all the edges, and the error of quantiles read off them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ics.buckets import LARGEST, NUM_BUCKETS, OVERFLOW, RELATIVE_ERROR, SMALLEST, bucket_edges
from ics.stats import histogram
from ics.stats.histogram import sample

EDGES = [bucket_edges(bucket) for bucket in range(OVERFLOW + 1)]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def slow_bucket(value: float) -> int:
    """Search all edges: lower <= |x| < upper, and the sign."""
    for bucket, (lower, upper) in enumerate(EDGES):
        if max(lower, 0.0) <= abs(value) < upper:
            return int(math.copysign(bucket, value)) if bucket else 0
    raise AssertionError(value)


def slow_histogram(x: torch.Tensor) -> torch.Tensor:
    counts = torch.zeros(NUM_BUCKETS, dtype=torch.int64)
    for value in x.double().flatten().tolist():
        if math.isfinite(value):
            counts[slow_bucket(value) + OVERFLOW] += 1
    return counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_edge_and_its_neighbours_fall_where_the_edges_say(dtype):
    lower = torch.tensor([lower for lower, _ in EDGES[1:]], dtype=dtype)
    below = torch.nextafter(lower, torch.zeros((), dtype=dtype))
    first = OVERFLOW + 1
    for x, expected in ((lower, torch.arange(1, OVERFLOW + 1)), (below, torch.arange(OVERFLOW))):
        counts = torch.zeros(NUM_BUCKETS, dtype=torch.int64)
        counts[expected + OVERFLOW] = 1
        assert torch.equal(histogram(x), counts)
        assert torch.equal(histogram(-x), counts.flip(0))
    assert bucket_edges(1)[0] == SMALLEST == float(lower[0])
    assert histogram(lower[:1])[first] == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_values_against_the_slow_search(dtype):
    exponents = torch.linspace(-42, 38, 120, dtype=torch.float64)
    x = torch.randn(120, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 10**exponents
    special = torch.tensor([0.0, -0.0, 1e-45, -1e-45, LARGEST, -LARGEST, math.nan, math.inf, -math.inf])
    x = torch.cat([x, special]).to(dtype)
    assert torch.equal(histogram(x), slow_histogram(x))
    assert int(histogram(x).sum()) == int(x.isfinite().sum())


def test_both_zeros_share_a_bucket_and_overflow_has_one_per_sign():
    counts = histogram(torch.tensor([0.0, -0.0, 1e-20, -1e-20, 1e30, -1e30, -1e31]))
    assert (int(counts[OVERFLOW]), int(counts[-1]), int(counts[0])) == (4, 1, 2)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_no_values_fall_nowhere(shape):
    counts = histogram(torch.zeros(shape))
    assert (counts.shape, counts.dtype, int(counts.sum())) == ((NUM_BUCKETS,), torch.int64, 0)


def test_memory_layout_and_sampling_order_do_not_depend_on_each_other():
    x = torch.randn(4, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    for other in (x.to(memory_format=torch.channels_last), x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)):
        assert not other.is_contiguous()
        assert torch.equal(histogram(other, max_values=100), histogram(x, max_values=100))
        assert torch.equal(histogram(other), histogram(x))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(width=32), max_size=8), min_size=1, max_size=4))
def test_histograms_add_up_exactly(parts):
    whole = histogram(torch.tensor([value for part in parts for value in part]))
    assert torch.equal(sum(histogram(torch.tensor(part)) for part in parts), whole)


@pytest.mark.parametrize(("size", "limit"), [(1000, 100), (4096, 64), (30030, 1000), (97, 10), (10, 10), (11, 10)])
def test_a_sample_is_of_fixed_stride_and_bounded(size, limit):
    taken = sample(torch.arange(float(size)), limit)
    assert 0.4 * limit <= len(taken) <= limit
    assert len(set(taken.diff().tolist())) == 1
    assert int(histogram(torch.ones(size), max_values=limit).sum()) == len(taken)
    assert int(histogram(torch.ones(size), max_values=None).sum()) == size


def test_a_sample_visits_all_channels_and_columns_alike():
    x = torch.arange(32.0).expand(64, 16, 32).contiguous()  # each value is its column; 512 is a multiple of 32
    columns = sample(x, 64 * 16 * 32 // 512)
    assert len(set(columns.tolist())) == 32


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.01, 0.15, 0.5, 0.85, 0.99]), st.sampled_from([1e-6, 1.0, 1e6]))
def test_quantiles_lie_within_the_stated_relative_error(seed, q, scale):
    x = np.random.default_rng(seed).standard_t(3, size=401) * scale
    counts = histogram(torch.from_numpy(x)).numpy()
    exact = np.quantile(x, q, method="inverted_cdf")
    bucket = int(np.searchsorted(np.cumsum(counts), math.ceil(q * x.size))) - OVERFLOW
    middle = sum(bucket_edges(bucket)) / 2
    # Below the smallest octave there is one bucket, around zero, and the error is absolute.
    bound = RELATIVE_ERROR * abs(exact) * (1 + 1e-12) if abs(exact) >= SMALLEST else SMALLEST
    assert abs(middle - exact) <= bound
