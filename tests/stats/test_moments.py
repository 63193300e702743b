"""Every statistic of every shape and type against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ics.errors import UsageError
from ics.stats import Moments, channel_moments, columns, default_channel_axis, merge, pool

SHAPES = {"nc": (7, 3), "ncl": (7, 3, 5), "nchw": (7, 3, 4, 5), "ntc": (7, 5, 3), "one": (1, 3), "two": (2, 3, 2, 2)}
AXES = {"ntc": -1}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float64: 1e-12}  # others accumulate in float32: 1e-5


def oracle(values: np.ndarray, saturation=None) -> dict[str, float]:
    """Statistics of one channel's values, straight from the definitions."""
    finite = values[np.isfinite(values)].astype(np.float64)
    mean = finite.mean()
    row = {
        "count": finite.size,
        "mean": mean,
        **{f"m{power}": ((finite - mean) ** power).mean() for power in (2, 3, 4)},
        "minimum": finite.min(),
        "maximum": finite.max(),
        "zero_count": (finite == 0).sum(),
        "negative_count": (finite < 0).sum(),
        "nonfinite_count": values.size - finite.size,
    }
    if saturation is not None:
        low, high = saturation
        margin = 0.01 * (high - low)
        row["saturated_count"] = ((finite <= low + margin) | (finite >= high - margin)).sum()
    return row


def check(moments: Moments, x: torch.Tensor, axis: int, *, rtol: float, saturation=None) -> None:
    per_channel = np.moveaxis(x.double().numpy(), axis, 0).reshape(x.shape[axis], -1)
    for channel, values in enumerate(per_channel):
        expected = oracle(values, saturation)
        spread = max(np.sqrt(expected["m2"]), abs(expected["mean"]) * 1e-6)
        for name, value in expected.items():
            power = {"m2": 2, "m3": 3, "m4": 4}.get(name, 1)
            got = float(getattr(moments, name)[channel])
            assert got == pytest.approx(value, rel=rtol, abs=rtol * spread**power), (name, channel)


def make(shape, dtype, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 0.5
    x[torch.rand(shape, generator=generator) < 0.2] = 0.0
    return x.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_statistic_equals_numpys(shape, dtype):
    axis = AXES.get(shape, 1)
    x = make(SHAPES[shape], dtype)
    moments = channel_moments(x, channel_axis=axis, saturation=(-1.0, 3.0))
    check(moments, x, axis, rtol=TOLERANCE.get(dtype, 1e-5), saturation=(-1.0, 3.0))
    assert moments.mean.dtype == torch.float64


@pytest.mark.parametrize("shape", ["nc", "nchw", "ntc"])
def test_nan_and_infinity_are_counted_and_the_rest_measured(shape):
    axis = AXES.get(shape, 1)
    x = make(SHAPES[shape], torch.float32)
    x.view(-1)[::7] = torch.nan
    x.view(-1)[1::11] = torch.inf
    x.view(-1)[2::11] = -torch.inf
    check(channel_moments(x, channel_axis=axis), x, axis, rtol=1e-5)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided"])
def test_memory_layout_does_not_matter(layout):
    x = make((4, 6, 5, 5), torch.float32)
    other = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
        "strided": torch.stack([x, -x], -1)[..., 0],
    }[layout]
    assert other.stride() != x.stride()
    check(channel_moments(other, channel_axis=1), x, 1, rtol=1e-5)


def test_a_small_variance_around_a_large_mean_is_not_lost_in_float32():
    x = (100 + 0.01 * torch.randn(64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).float()
    moments = channel_moments(x, channel_axis=1)
    expected = x.double().var((0, 2, 3), unbiased=False)
    naive = (x**2).mean((0, 2, 3)) - x.mean((0, 2, 3)) ** 2
    torch.testing.assert_close(moments.m2, expected, rtol=1e-4, atol=0)
    assert ((naive - expected).abs() / expected).max() > 0.5, "the mistake this guards against would show here"


@pytest.mark.parametrize("value", [0.0, -3.25, 1e-40, 65504.0])
def test_constants_have_no_spread(value):
    moments = channel_moments(torch.full((8, 2), value), channel_axis=1)
    assert moments.m2.tolist() == [0, 0]
    assert moments.m4.tolist() == [0, 0]
    assert moments.mean.tolist() == pytest.approx([float(torch.tensor(value))] * 2, rel=1e-6)


def test_no_values_have_counts_and_no_moments():
    moments = channel_moments(torch.full((2, 3), torch.nan), channel_axis=1)
    assert moments.count.tolist() == [0, 0, 0]
    assert moments.mean.isnan().all()
    empty = channel_moments(torch.zeros(0, 3), channel_axis=1)
    assert empty.count.tolist() == [0, 0, 0]
    assert empty.nonfinite_count.tolist() == [0, 0, 0]
    assert int(pool(empty).count) == 0


@pytest.mark.parametrize("x", [torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)])
def test_integers_have_no_moments(x):
    with pytest.raises(UsageError, match="floating point"):
        channel_moments(x, channel_axis=-1)


def test_default_channel_axis_follows_the_fields_layouts():
    assert [default_channel_axis(torch.zeros((2,) * ndim)) for ndim in (1, 2, 3, 4, 5)] == [-1, 1, -1, 1, 1]


def test_pooled_columns_are_those_of_all_values_at_once():
    x = make((7, 3, 4, 4), torch.float64)
    row = columns(channel_moments(x, channel_axis=1, saturation=(-1.0, 3.0)))
    expected = oracle(x.numpy().ravel(), (-1.0, 3.0))
    for name, value in expected.items():
        if name in ("zero_count", "negative_count", "saturated_count"):
            name, value = name.replace("count", "fraction"), value / expected["count"]
        assert float(row[name]) == pytest.approx(value, rel=1e-12), name
    assert row["channel_zero_fraction"].tolist() == pytest.approx((x == 0).double().mean((0, 2, 3)).tolist(), rel=1e-15)


def test_pooling_hides_what_channels_show():
    x = torch.stack([torch.full((50,), -1.0), torch.full((50,), 1.0)], 1)
    row = columns(channel_moments(x, channel_axis=1))
    assert float(row["m2"]) == 1
    assert row["channel_m2"].tolist() == [0, 0]


chunks = st.lists(st.lists(st.floats(-1e3, 1e3), min_size=0, max_size=6), min_size=2, max_size=4)


@settings(max_examples=80, deadline=None)
@given(chunks)
def test_merging_is_associative_and_equals_the_whole(parts):
    moments = [channel_moments(torch.tensor(part, dtype=torch.float64)[:, None], channel_axis=1) for part in parts]
    whole = channel_moments(
        torch.tensor([v for part in parts for v in part], dtype=torch.float64)[:, None], channel_axis=1
    )
    left = moments[0]
    for other in moments[1:]:
        left = merge(left, other)
    right = moments[-1]
    for other in reversed(moments[:-1]):
        right = merge(other, right)
    for merged in (left, right):
        assert merged.count.tolist() == whole.count.tolist()
        assert merged.zero_count.tolist() == whole.zero_count.tolist()
        if int(whole.count) == 0:
            continue
        scale = max(1e-3, float(whole.maximum.abs()), float(whole.minimum.abs()))
        assert merged.minimum.tolist() == whole.minimum.tolist()
        for power, name in enumerate(("mean", "m2", "m3", "m4"), 1):
            a, b = float(getattr(merged, name)), float(getattr(whole, name))
            assert a == pytest.approx(b, rel=1e-9, abs=1e-12 * scale**power), name
