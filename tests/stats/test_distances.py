from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from ics.stats import distribution, gaussian_kl, log_variance_ratio, mean_shift, union, wasserstein_1

ALL = (mean_shift, log_variance_ratio, gaussian_kl, wasserstein_1)


def make(seed, *, shape=(30, 3, 2, 4), scale=(1.0, 0.3, 5.0), shift=(0.0, 2.0, -9.0)):
    values = np.random.default_rng(seed).gamma(2.0, size=shape)
    return values * np.reshape(scale, (1, 3, 1, 1)) + np.reshape(shift, (1, 3, 1, 1))


def oracle(now, reference):
    """The four distances per channel, from their definitions in docs/science.md, section 3.4."""
    for channel in range(now.shape[1]):
        x, y = now[:, channel].ravel(), reference[:, channel].ravel()
        ratio, moved = x.var() / y.var(), x.mean() - y.mean()
        kl = 0.5 * (ratio + moved**2 / y.var() - 1 - np.log(ratio))
        transport = wasserstein_distance(x, y) / y.std()
        yield abs(moved) / y.std(), abs(np.log(ratio)), kl, transport


def measured(now, reference, **options):
    a, b = (distribution(torch.as_tensor(values), channel_axis=1, **options) for values in (now, reference))
    return np.stack([measure(a, b).numpy() for measure in ALL], axis=1)


@pytest.mark.parametrize("size", [30, 30 - 7, 1])
def test_every_distance_equals_its_definition(size):
    reference = make(0)
    now = make(1, scale=(1.5, 0.3, 0.1), shift=(0.0, 2.5, 8.0))[:size]
    np.testing.assert_allclose(measured(now, reference), list(oracle(now, reference)), rtol=1e-11)
    assert measured(now, reference).dtype == np.float64


def test_a_distribution_is_at_exactly_no_distance_from_itself():
    for dtype in (np.float64, np.float32):
        values = make(0).astype(dtype)
        assert (measured(values, values.copy()) == 0).all()


def test_half_precision_is_computed_in_float32_at_least():
    now, reference = (torch.as_tensor(make(seed)).bfloat16() for seed in (0, 1))
    expected = list(oracle(now.double().numpy(), reference.double().numpy()))
    np.testing.assert_allclose(measured(now, reference), expected, rtol=1e-4)


def test_a_sample_changes_wasserstein_alone_and_little():
    now, reference = make(0, shape=(400, 3, 8, 8)), make(1, shape=(400, 3, 8, 8), shift=(0.5, 2.5, -5.0))
    whole, sampled = measured(now, reference, max_values=10**6), measured(now, reference)
    assert (whole[:, :3] == sampled[:, :3]).all()
    assert (whole[:, 3] != sampled[:, 3]).all()
    np.testing.assert_allclose(whole[:, 3], sampled[:, 3], atol=0.15)


def test_the_sample_visits_every_column_of_an_image():
    columns = torch.arange(8.0).expand(64, 1, 16, 8)
    sample = distribution(columns, channel_axis=1, max_values=1024).sample
    assert 900 <= sample.shape[1] <= 1024
    assert (sample.diff(dim=1) >= 0).all()
    counts = np.unique(sample.numpy(), return_counts=True)[1]
    assert len(counts) == 8
    assert counts.max() - counts.min() <= 1


def test_what_is_constant_has_no_distances_in_its_own_units():
    varying, zero = torch.randn(20, 1, generator=torch.Generator().manual_seed(0)), torch.zeros(20, 1)
    rounded = torch.full((20, 1), 0.1)
    rounded[::2] = torch.nextafter(rounded[::2], torch.tensor(1.0))  # differs in the last bit: rounding, no spread
    for constant in (zero, rounded):
        assert np.isnan(measured(varying, constant)).all()
        shift, ratio, kl, transport = measured(constant, varying)[0]
        assert math.isnan(ratio)
        assert math.isnan(kl)
        values, own = varying.double().numpy(), constant.double().numpy()
        assert shift == pytest.approx(abs(own.mean() - values.mean()) / values.std())
        assert transport > 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_leaves_its_channel_without_distances(value):
    values, broken = torch.randn(2, 20, 2, generator=torch.Generator().manual_seed(0)).unbind()
    broken[3, 1] = value
    for a, b in ((values, broken), (broken, values)):
        assert np.isnan(measured(a, b)).tolist() == [[False] * 4, [True] * 4]


def test_no_values_have_no_distances():
    assert np.isnan(measured(torch.zeros(0, 2), torch.zeros(0, 2))).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_the_union_of_parts_is_the_whole(num_first, num_second, seed):
    values = torch.as_tensor(np.random.default_rng(seed).normal(size=(num_first + num_second, 2)))
    parts = [distribution(part, channel_axis=1) for part in (values[:num_first], values[num_first:])]
    whole = distribution(values, channel_axis=1)
    assert torch.equal(union(parts).sample, whole.sample)
    torch.testing.assert_close(union(parts).mean, whole.mean)
    torch.testing.assert_close(union(parts).variance, whole.variance)


def test_nothing_is_read_on_the_host():
    now, reference = (distribution(torch.zeros(4, 3, 2, device="meta"), channel_axis=1) for _ in range(2))
    assert all(measure(now, reference).shape == (3,) for measure in ALL)
