"""`reduce` by every backend against numpy in float64, and against the histogram count by count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ics import stats
from ics.errors import UsageError
from ics.stats import histogram, pack, reduce, unpack
from tests.stats.test_moments import ASYMPTOTES, check, make

CASES = [
    ((3, 4, 6, 5), 1),
    ((40, 70, 2, 3), 1),  # neighbours are columns
    ((37, 3, 600), 1),  # and here chunks
    ((2, 3, 70, 71), 1),
    ((300, 5), -1),  # several short rows as one, with a rest
    ((1000, 300), 1),  # several tiles each way
    ((9, 11, 13), 0),
    ((1, 1, 5000), 1),
    ((7, 1, 5), 1),
    ((64, 16, 24, 24), 1),  # several parts
    ((5,), 0),
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x.mT.contiguous().mT,
    "reversed": lambda x: x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim))),
    "with gaps": lambda x: torch.stack([x, -x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand(x.shape),
    "offset": lambda x: torch.cat([x, x])[len(x) :],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_every_layout_and_type_has_the_same_statistics_and_histogram(backend, shape, axis, layout):
    dtype = DTYPES[(len(layout) + len(shape) + shape[0]) % len(DTYPES)]  # all of them come, not with every layout
    x = make(shape, dtype)
    if layout == "reversed":
        x.view(-1)[:: max(x.numel() // 7, 1)] = math.nan
    other = LAYOUTS[layout](x) if x.ndim > 1 else x
    reduced = reduce(other, channel_axis=axis, saturation=ASYMPTOTES, max_values=999)
    check(unpack(reduced.moments), other, axis, rtol=1e-5, saturation=ASYMPTOTES)
    assert torch.equal(reduced.histogram, histogram(other, max_values=999))
    every = reduce(other, channel_axis=axis, max_values=None)
    assert torch.equal(every.histogram, histogram(other, max_values=None))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_shift_and_scale_are_measured_as_if_applied_before(backend, shape, axis, layout):
    dtype = DTYPES[(len(layout) + len(shape) + shape[0]) % len(DTYPES)]
    x = LAYOUTS[layout](make(shape, dtype)) if len(shape) > 1 else make(shape, dtype)
    generator = torch.Generator().manual_seed(1)
    shift = torch.randn(shape[axis], generator=generator)
    scale = torch.randn(shape[axis], generator=generator)
    place = [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]
    wide = x if dtype == torch.float64 else x.float()
    applied = (wide - shift.reshape(place)) * scale.reshape(place)
    reduced = reduce(x, channel_axis=axis, affine=(shift, scale), max_values=999)
    assert applied.dtype == wide.dtype
    check(unpack(reduced.moments), applied, axis, rtol=1e-5)
    assert torch.equal(reduced.histogram, histogram(applied, max_values=999))
    exact = (x.double() - shift.double().reshape(place)) * scale.double().reshape(place)
    np.testing.assert_allclose(
        reduced.moments[2], exact.movedim(axis, 0).reshape(shape[axis], -1).var(1, unbiased=False), rtol=1e-5
    )


def test_every_number_of_half_precision_is_read_right(backend):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = every.view(dtype)
        reduced = reduce(x.reshape(64, 1024), channel_axis=0, max_values=None)
        assert torch.equal(reduced.histogram, histogram(x, max_values=None))
        check(unpack(reduced.moments), x.reshape(64, 1024), 0, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.integers(1, 4))
def test_any_floats(values, rows):
    x = torch.tensor(values).repeat(rows).reshape(rows, -1)
    stats.use_backend("auto")
    for axis in (0, 1):
        reduced = reduce(x, channel_axis=axis)
        check(unpack(reduced.moments), x, axis, rtol=1e-5)
    assert torch.equal(reduced.histogram, histogram(x))


def test_results_depend_neither_on_timing_nor_on_the_number_of_threads():
    threads = torch.get_num_threads()
    x = torch.randn(128, 16, 24, 24, generator=torch.Generator().manual_seed(0))
    results = []
    try:
        for number in (1, 2, 3, 2, 2):
            torch.set_num_threads(number)
            results.append(reduce(x, channel_axis=1, saturation=ASYMPTOTES))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert torch.equal(other.moments, results[0].moments)
        assert torch.equal(other.histogram, results[0].histogram)


def test_measuring_leaves_all_as_it_was(backend):
    x = torch.randn(40, 3, requires_grad=True)
    y = x * 2
    state, before, version = torch.get_rng_state(), y.detach().clone(), y._version
    reduced = reduce(y, channel_axis=1, affine=(x[0], x[1]))
    assert not reduced.moments.requires_grad
    assert torch.equal(y, before)
    assert y._version == version
    assert torch.equal(torch.get_rng_state(), state)
    with torch.inference_mode():
        z = x * 2
        assert torch.equal(reduce(z, channel_axis=1).moments[0], torch.full((3,), 40.0).double())


def test_a_negated_view_and_a_number_are_measured(backend):
    """A negated view has a bit, not values; a number has no axis."""
    x = torch.randn(6, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    negated = x.conj().imag
    assert negated.is_neg()
    check(unpack(reduce(negated, channel_axis=1).moments), negated.clone(), 1, rtol=1e-5)
    number = reduce(torch.tensor(2.0), channel_axis=-1)
    assert number.moments[:3].tolist() == [[1.0], [2.0], [0.0]]
    assert int(number.histogram.sum()) == 1


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (4, 0)])
def test_no_values(backend, shape):
    reduced = reduce(torch.zeros(shape), channel_axis=1, saturation=(0.0, 1.0))
    expected = pack(stats.channel_moments(torch.zeros(shape), channel_axis=1, saturation=(0.0, 1.0)))
    torch.testing.assert_close(reduced.moments, expected, rtol=0, atol=0, equal_nan=True)
    assert int(reduced.histogram.sum()) == 0


def test_nothing_is_read_on_the_host_away_from_the_cpu():
    x, three = torch.empty(4, 3, 5, 5, device="meta"), torch.empty(3, device="meta")
    reduced = reduce(x, channel_axis=1, saturation=(0.0, 1.0), affine=(three, three))
    assert reduced.moments.device.type == reduced.histogram.device.type == "meta"


def test_mistakes_are_refused_in_a_sentence(backend):
    x, three = torch.zeros(2, 3), torch.zeros(3)
    with pytest.raises(UsageError, match=r"a scale per channel, shape \(3,\), but \(2,\) came; type affine="):
        reduce(x, channel_axis=1, affine=(three, torch.zeros(2)))
    with pytest.raises(UsageError, match=r"-2 to 1 for shape \(2, 3\), but 2 came; type channel_axis=1"):
        reduce(x, channel_axis=2)
    with pytest.raises(UsageError, match=r"one of int64 came; type x\.float\(\)"):
        reduce(x.long(), channel_axis=1)
    with pytest.raises(UsageError, match="max_values must be at least 1"):
        reduce(x, channel_axis=1, max_values=0)
    assert reduce(x, channel_axis=1, histogram=False).histogram is None
