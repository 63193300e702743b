"""Packed statistics say what `Moments` say, one by one and in stacks."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from ics.errors import UsageError
from ics.stats import PACKED, Moments, channel_moments, columns, columns_of, merged, pack, unpack
from ics.tensor_statistics import FIRST_SUM

TENSORS = [
    torch.tensor([[1.0, -0.0, 5.0], [3.0, 2.0, 5.0]]),
    torch.tensor([[math.nan, 1.0, -math.inf], [math.inf, 3.0, math.nan]]),
    torch.zeros(0, 3),
    1e3 + torch.arange(30.0).reshape(10, 3) ** 2,
]


def assert_equal(a: dict, b: dict) -> None:
    for name, cell in a.items():
        if cell is None:
            assert b[name] is None, name
        else:
            assert cell.dtype == b[name].dtype, name
            torch.testing.assert_close(cell, b[name], rtol=1e-13, atol=0, equal_nan=True, msg=name)


def test_the_rows_are_the_fields_of_moments_in_order():
    assert [field.name for field in dataclasses.fields(Moments)] == list(PACKED)


def test_the_rows_after_the_extrema_add_up():
    # The kernels rely on it: they join and pool these rows in one loop.
    halves = [pack(channel_moments(x, channel_axis=1, saturation=(0.0, 5.0))) for x in (TENSORS[0], TENSORS[-1])]
    assert torch.equal(merged(*halves)[FIRST_SUM:], halves[0][FIRST_SUM:] + halves[1][FIRST_SUM:])
    assert not torch.equal(merged(*halves)[FIRST_SUM - 1], halves[0][FIRST_SUM - 1] + halves[1][FIRST_SUM - 1])


@pytest.mark.parametrize("saturation", [None, (0.0, 5.0)])
@pytest.mark.parametrize("x", TENSORS)
def test_unpacking_undoes_packing(x, saturation):
    moments = channel_moments(x, channel_axis=1, saturation=saturation)
    packed = pack(moments)
    assert (packed.shape, packed.dtype) == ((len(PACKED), 3), torch.float64)
    assert packed[PACKED.index("saturated_count")].isnan().all() == (saturation is None)
    assert_equal(as_dict(moments), as_dict(unpack(packed)))
    assert_equal(as_dict(moments), as_dict(unpack(packed, has_asymptotes=saturation is not None)))


def as_dict(moments: Moments) -> dict:
    return {name: getattr(moments, name) for name in PACKED}


def test_a_stack_unpacks_as_its_rows_do():
    every = [channel_moments(x, channel_axis=1) for x in TENSORS]
    stack = unpack(torch.stack([pack(moments) for moments in every]))
    for row, moments in enumerate(every):
        own = {name: None if cell is None else cell[row] for name, cell in as_dict(stack).items()}
        assert_equal(as_dict(moments), own)


def test_columns_of_a_stack_are_the_columns_of_its_rows():
    asymptotes = [None, (0.0, 5.0), (0.0, 5.0), None]
    every = [channel_moments(x, channel_axis=1, saturation=pair) for x, pair in zip(TENSORS, asymptotes, strict=True)]
    stack = columns_of(torch.stack([pack(moments) for moments in every]))
    for row, moments in enumerate(every):
        expected = columns(moments)
        assert list(stack) == list(expected)
        own = {name: cell[row] for name, cell in stack.items()}
        for name in ("saturated_fraction", "channel_saturated_fraction"):
            if expected[name] is None:
                assert expected.pop(name) is None
                assert own.pop(name).isnan().all()
        assert_equal(expected, own)


def test_the_columns_of_the_channels_are_left_out_on_request():
    packed = torch.stack([pack(channel_moments(x, channel_axis=1)) for x in TENSORS])
    assert list(columns_of(packed, per_channel=False)) == [
        name for name in columns_of(packed) if not name.startswith("channel_")
    ]


def test_nothing_is_read_on_the_host_away_from_the_cpu():
    packed = torch.empty(2, len(PACKED), 3, device="meta")
    assert {cell.device.type for cell in columns_of(packed).values()} == {"meta"}
    assert unpack(packed, has_asymptotes=True).count.device.type == "meta"


def test_wrong_shapes_and_mixed_stacks_are_refused_in_a_sentence():
    rows = len(PACKED)
    with pytest.raises(UsageError, match=rf"shape \(S, {rows}, C\), but \({rows}, 3\) came; type torch\.stack"):
        columns_of(torch.zeros(rows, 3))
    with pytest.raises(UsageError, match=rf"shape \(\.\.\., {rows}, C\), but \(3,\) came; type stats\.pack"):
        unpack(torch.zeros(3))
    mixed = [pack(channel_moments(TENSORS[0], channel_axis=1, saturation=pair)) for pair in (None, (0.0, 5.0))]
    with pytest.raises(UsageError, match="some have them; unpack them one by one"):
        unpack(torch.stack(mixed))
