"""Every statistic of every shape, type, batch size and memory layout against numpy in float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ics import schema
from ics.stats import Moments, channel_moments, columns, pool
from ics.tensor_statistics import TENSOR_STATISTICS

SHAPES: dict[str, tuple[Callable[[int], tuple[int, ...]], int]] = {
    "NC": (lambda n: (n, 3), 1),
    "NCL": (lambda n: (n, 3, 5), 1),
    "NCHW": (lambda n: (n, 3, 4, 6), 1),
    "NTC": (lambda n: (n, 5, 3), -1),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
RTOL = {torch.float64: 1e-12}  # sums of all other types accumulate in float32
ASYMPTOTES = (-1.0, 3.0)


def oracle(values: np.ndarray, saturation: tuple[float, float] | None = None) -> dict[str, float]:
    """Statistics of one channel's values, straight from the definitions, in float64."""
    finite = values[np.isfinite(values)].astype(np.float64)
    mean = math.fsum(finite) / finite.size if finite.size else math.nan
    near = np.zeros(0)
    if saturation is not None:
        low, high = saturation
        near = (finite <= low + 0.01 * (high - low)) | (finite >= high - 0.01 * (high - low))
    return {
        "count": finite.size,
        "mean": mean,
        **{f"m{k}": math.fsum((finite - mean) ** k) / finite.size if finite.size else math.nan for k in (2, 3, 4)},
        "minimum": finite.min(initial=math.inf) if finite.size else math.nan,
        "maximum": finite.max(initial=-math.inf) if finite.size else math.nan,
        "zero_count": int((finite == 0).sum()),
        "negative_count": int((finite < 0).sum()),
        "saturated_count": int(near.sum()),
        "nonfinite_count": int((~np.isfinite(values)).sum()),
    }


def check(
    moments: Moments, x: Tensor, axis: int, *, rtol: float, saturation: tuple[float, float] | None = None
) -> None:
    """Counts and extrema are exact; mean and m2 within rtol, m3 and m4 within 2 and 4 rtol of m2^1.5, m2^2."""
    for channel, values in enumerate(np.moveaxis(x.double().numpy(), axis, 0).reshape(x.shape[axis], -1)):
        expected = oracle(values, saturation)
        got = {f.name: getattr(moments, f.name) for f in dataclasses.fields(moments)}
        if saturation is None:
            assert got.pop("saturated_count") is None
        std = math.sqrt(expected["m2"])
        for name, cell in got.items():
            value, exact = float(cell[channel]), float(expected[name])
            k = {"mean": 1, "m2": 2, "m3": 3, "m4": 4}.get(name)
            if k is None:
                assert value == exact or (math.isnan(value) and math.isnan(exact)), (name, channel)
            else:
                tolerance = {"rel": rtol * max(1, 2 * (k - 2)), "abs": rtol * max(1, 2 * (k - 2)) * std**k}
                assert value == pytest.approx(exact, nan_ok=True, **tolerance), (name, channel)


def make(shape: tuple[int, ...], dtype: torch.dtype, *, seed: int = 0) -> Tensor:
    """Skewed values with exact zeros; each channel has its own place and width."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = x + 0.3 * x * x + 0.5
    return torch.where(torch.rand(shape, generator=generator) < 0.2, 0.0, x).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_statistic_equals_numpys(measure, shape, batch, dtype):
    of_batch, axis = SHAPES[shape]
    x = make(of_batch(batch), dtype)
    moments = measure(x, channel_axis=axis, saturation=ASYMPTOTES)
    check(moments, x, axis, rtol=RTOL.get(dtype, 1e-5), saturation=ASYMPTOTES)
    assert moments.mean.dtype == torch.float64
    assert moments.zero_count.dtype == moments.count.dtype == moments.nonfinite_count.dtype == torch.int64
    check(measure(x, channel_axis=axis), x, axis, rtol=RTOL.get(dtype, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_nan_and_infinity_are_counted_and_the_rest_measured(measure, shape, dtype):
    of_batch, axis = SHAPES[shape]
    x = make(of_batch(7), dtype)
    for start, value in enumerate((math.nan, math.inf, -math.inf)):
        x.view(-1)[start :: 5 + start] = value
    moments = measure(x, channel_axis=axis, saturation=ASYMPTOTES)
    assert int(moments.nonfinite_count.sum()) > 0
    check(moments, x, axis, rtol=RTOL.get(dtype, 1e-5), saturation=ASYMPTOTES)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "expanded", "offset"])
def test_memory_layout_does_not_matter(measure, layout, damaged):
    x = make((4, 6, 5, 5), torch.float32)
    if damaged:
        x[1, 2, 3, 4] = math.nan
    other = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
        "strided": torch.stack([x, -x], -1)[..., 0],
        "expanded": x[:1, :, :1].expand(4, 6, 5, 5),
        "offset": torch.cat([x, x])[4:],
    }[layout]
    check(measure(other, channel_axis=1), other, 1, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_tensors_of_many_blocks(measure, axis):
    x = make((60, 50, 48), torch.float32) + torch.linspace(-5, 5, 60)[:, None, None]  # more than 2^17 values
    check(measure(x, channel_axis=axis, saturation=ASYMPTOTES), x, axis, rtol=1e-5, saturation=ASYMPTOTES)
    x[-1, -1, -1] = math.inf
    check(measure(x, channel_axis=axis), x, axis, rtol=1e-5)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_small_variance_around_a_large_mean_is_not_lost_in_float32(measure, damaged):
    x = 100 + 0.01 * make((64, 3, 8, 8), torch.float64)
    x = x.float()
    naive = (x**2).mean((0, 2, 3)) - x.mean((0, 2, 3)) ** 2
    expected = x.double().var((0, 2, 3), unbiased=False)
    assert ((naive - expected).abs() / expected).max() > 0.5, "the mistake this guards against would show here"
    if damaged:
        x[0, :, 0, 0] = math.nan
    check(measure(x, channel_axis=1), x, 1, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-44, 1e-40, 1e-30, 1e-12, 1e8, 1e20, 1e37])
@pytest.mark.parametrize("damaged", [False, True])
def test_powers_of_tiny_and_huge_values_neither_vanish_nor_overflow(measure, scale, damaged):
    x = (make((16, 3, 4), torch.float64) * scale).float()
    if damaged:
        x[0, 0, 0] = math.nan
    moments = measure(x, channel_axis=1)
    check(moments, x, 1, rtol=1e-5)
    assert (moments.m4 > 0).all()


def test_the_whole_range_of_float32(measure):
    largest = torch.finfo(torch.float32).max
    x = torch.tensor([[largest, -largest, 0.0, 1.0, 1e-45]]).T
    check(measure(x, channel_axis=1), x, 1, rtol=1e-5)
    x = torch.full((1000, 1), largest)  # finite values whose sum is not
    check(measure(x, channel_axis=1), x, 1, rtol=1e-5)


def test_channels_of_very_different_sizes_do_not_disturb_each_other(measure):
    x = make((50, 4), torch.float64) * torch.tensor([1e-30, 1e-10, 1.0, 1e30])
    x = x.float()
    check(measure(x, channel_axis=1), x, 1, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -3.3, 1e-45, 1e-40, 65504.0, 3e38])
@pytest.mark.parametrize("damaged", [False, True])
def test_constants_have_exactly_no_spread(measure, value, damaged):
    for size in (64, 71, 10_007):  # the float32 sum of 71 times 0.1, divided by 71, is not 0.1
        x = torch.full((size, 2), value)
        if damaged:
            x[0] = math.nan
        moments = measure(x, channel_axis=1)
        assert moments.m2.tolist() == moments.m3.tolist() == moments.m4.tolist() == [0, 0]
        assert moments.mean.tolist() == moments.minimum.tolist() == moments.maximum.tolist() == x[-1].tolist()


def test_negative_zero_is_zero_and_not_negative(measure):
    moments = measure(torch.tensor([[-0.0], [0.0], [-1e-45]]), channel_axis=1)
    assert (moments.zero_count.tolist(), moments.negative_count.tolist()) == ([2], [1])


def test_a_channel_without_finite_values_has_counts_and_no_numbers(measure):
    x = torch.tensor([[math.nan, 1.0, -math.inf], [math.inf, 3.0, math.nan]])
    moments = measure(x, channel_axis=1, saturation=(-1.0, 1.0))
    check(moments, x, 1, rtol=1e-5, saturation=(-1.0, 1.0))
    assert moments.mean.isnan().tolist() == moments.minimum.isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0)])
def test_empty_tensors_have_counts_of_0_and_no_numbers(measure, shape):
    moments = measure(torch.zeros(shape), channel_axis=1, saturation=(0.0, 1.0))
    check(moments, torch.zeros(shape), 1, rtol=0, saturation=(0.0, 1.0))
    assert int(pool(moments).count) == 0
    assert math.isnan(float(pool(moments).maximum))


def test_no_channels_pool_to_no_values():
    moments = channel_moments(torch.zeros(4, 0), channel_axis=1)
    assert moments.mean.shape == (0,)
    assert (int(pool(moments).count), math.isnan(float(pool(moments).m2))) == (0, True)


@pytest.mark.parametrize("damaged", [False, True])
def test_columns_are_the_schemas_and_pool_all_values(damaged):
    x = make((7, 3, 4, 4), torch.float64) + torch.tensor([-40.0, 0.0, 1e3])[:, None, None]
    if damaged:
        x[:, 1] = math.nan
    row = columns(channel_moments(x, channel_axis=1, saturation=ASYMPTOTES))
    stored = [name for name in schema.ACTIVATIONS.column_names if "histogram" not in name]
    assert set(row) < set(stored)
    assert set(stored) - set(row) == {"step", "layer", "layer_index", "call", "site", "source", "null_reason"}
    averages = {each.name: each.average for each in TENSOR_STATISTICS if each.average is not None}
    expected = oracle(x.numpy().ravel(), ASYMPTOTES)
    for name, value in expected.items():
        if name in averages:
            name, value = averages[name], value / expected["count"]
        k = {"m2": 2, "m3": 3, "m4": 4}.get(name, 1)
        assert float(row[name]) == pytest.approx(value, rel=1e-12, abs=1e-13 * expected["m2"] ** (k / 2)), name
    assert row["channel_zero_fraction"].tolist()[::2] == (x == 0).double().mean((0, 2, 3)).tolist()[::2]


def test_without_asymptotes_the_saturated_columns_are_null():
    row = columns(channel_moments(torch.ones(2, 2), channel_axis=1))
    assert row["saturated_fraction"] is row["channel_saturated_fraction"] is None


def test_pooling_hides_what_channels_show():
    x = torch.stack([torch.full((50,), -1.0), torch.full((50,), 1.0)], 1)
    row = columns(channel_moments(x, channel_axis=1))
    assert float(row["m2"]) == 1
    assert row["channel_m2"].tolist() == [0, 0]
