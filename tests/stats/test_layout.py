from __future__ import annotations

import numpy as np
import pytest
import torch

from ics.errors import UsageError
from ics.stats import (
    as_channels,
    channel_moments,
    columns,
    cosine,
    default_channel_axis,
    distance,
    dot,
    histogram,
    merge,
    norm,
)
from ics.stats.layout import as_slabs, blocks

REFUSED = [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64]


@pytest.mark.parametrize(
    ("shape", "axis"), [((7, 3), 1), ((7, 3, 5), 1), ((7, 3, 4, 5), -3), ((7, 5, 3), -1), ((3,), 0)]
)
def test_rows_and_slabs_hold_each_channels_values(shape, axis):
    x = torch.arange(np.prod(shape), dtype=torch.float32).reshape(shape)
    expected = np.moveaxis(x.numpy(), axis, 0).reshape(3, -1)
    assert np.array_equal(as_channels(x, channel_axis=axis).numpy().T, expected)
    slabs = as_slabs(x, channel_axis=axis)
    assert np.array_equal(slabs.numpy().transpose(1, 0, 2).reshape(3, -1), expected)


def test_slabs_copy_neither_contiguous_nor_channels_last_tensors():
    x = torch.zeros(2, 3, 4, 5)
    for other in (x, x.to(memory_format=torch.channels_last), x[1:], x.transpose(0, 1)):
        assert as_slabs(other, channel_axis=1).untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@pytest.mark.parametrize("shape", [(5, 3, 7), (1, 3, 200_000), (100_000, 3, 1), (3, 70_000, 2), (0, 3, 2), (2, 0, 2)])
def test_blocks_hold_every_value_once(shape):
    slabs = torch.ones(shape)
    parts = list(blocks(slabs))
    assert sum(part.numel() for part in parts) == slabs.numel()
    assert all(part.shape[1] == shape[1] for part in parts)
    assert max(part.numel() for part in parts) <= 64 * max(shape[1], 2**17 // 64)


def test_many_channels_do_not_make_many_narrow_blocks():
    assert len(list(blocks(torch.ones(1, 20_000, 64)))) == 1


def test_one_number_is_one_value_of_one_channel():
    assert as_channels(torch.tensor(2.0), channel_axis=-1).tolist() == [[2.0]]
    assert channel_moments(torch.tensor(2.0), channel_axis=-1).mean.tolist() == [2.0]


def test_no_values_keep_their_channels():
    assert as_channels(torch.zeros(0, 3, 4), channel_axis=1).shape == (0, 3)
    assert as_channels(torch.zeros(2, 0, 4), channel_axis=1).shape == (8, 0)


def test_default_channel_axis_follows_the_fields_layouts():
    assert [default_channel_axis(torch.zeros((2,) * ndim)) for ndim in range(7)] == [-1, -1, 1, -1, 1, 1, -1]


@pytest.mark.parametrize("dtype", REFUSED, ids=str)
def test_anything_but_real_numbers_is_refused_in_a_sentence(dtype):
    x = torch.zeros(3, 2, dtype=dtype)
    sentence = rf"need a floating point tensor .* but one of {str(dtype)[6:]} came; type x\.float\(\)"
    moments = [lambda: channel_moments(x, channel_axis=1), lambda: histogram(x)]
    norms = [] if dtype.is_complex else [lambda: norm([x])]  # a complex vector has a norm, and no order and no moments
    for measure in moments + norms:
        with pytest.raises(UsageError, match=sentence):
            measure()


def test_complex_numbers_have_the_norm_of_their_real_and_imaginary_parts():
    x = torch.randn(5, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    assert norm([x]).item() == pytest.approx(np.linalg.norm(x.numpy()), rel=1e-12)
    assert norm([x.conj()]).item() == pytest.approx(np.linalg.norm(x.numpy()), rel=1e-12)


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_that_is_not_there_is_refused_in_a_sentence(axis):
    with pytest.raises(UsageError, match=rf"-2 to 1 for shape \(3, 2\), but {axis} came; type channel_axis=1"):
        channel_moments(torch.zeros(3, 2), channel_axis=axis)


def test_measuring_leaves_the_tensor_and_its_graph_alone():
    x = torch.randn(4, 3, requires_grad=True)
    y = x * 2
    before, version = y.detach().clone(), y._version
    assert not channel_moments(y, channel_axis=1, saturation=(-1.0, 1.0)).mean.requires_grad
    histogram(y), norm([y])
    assert torch.equal(y, before)
    assert y._version == version


def test_nothing_is_read_on_the_host_away_from_the_cpu():
    """A tensor on device meta has no values, so that whatever looks at one raises, as it would stall a GPU."""
    x = torch.empty(4, 3, 5, 5, device="meta")
    moments = channel_moments(x, channel_axis=1, saturation=(0.0, 1.0))
    cells = columns(merge(moments, moments))
    tensors = [*cells.values(), histogram(x), histogram(x.permute(0, 2, 3, 1), max_values=10)]
    tensors += [norm([x]), dot([x], [x]), distance([x], [x]), cosine([x], [x]), cosine([x.double()], [x.double()])]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
