"""From blocks to host columns: every value bit for bit, shapes kept, null where the oracle of plain Python says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ics.buckets import NUM_BUCKETS, OVERFLOW
from ics.recording.writing import transfer
from ics.recording.writing.host_blocks import TensorCells
from ics.recording.writing.transfer import receive, send, to_host
from ics.records import Block, Stacked

KEYS = {"step": 0, "layer": "conv", "layer_index": 0, "call": 0, "site": "input"}


def block(table="activations", num_rows=3, **columns):
    keys = {name: [cell] * num_rows for name, cell in KEYS.items()} if table != "steps" else {}
    return Block(table, {**keys, **columns})


def columns_of(*blocks):
    ((_, columns),) = to_host(blocks)
    return columns


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_numbers_arrive_bit_for_bit_with_nulls_and_plain_numbers_between_them(dtype):
    values = [0.1, -0.0, math.inf, 1e-7]
    tensors = [torch.tensor(value, dtype=dtype) for value in values]
    found = columns_of(Block("steps", {"step": range(6), "loss": [*tensors[:2], None, 0.3, *tensors[2:]]}))["loss"]
    exact = [tensor.double().item() for tensor in tensors]
    assert found == [*exact[:2], None, 0.3, *exact[2:]]
    assert math.copysign(1, found[1]) == -1


def test_nan_is_a_value_and_none_is_none():
    found = columns_of(Block("steps", {"step": [0, 1], "loss": [torch.tensor(math.nan), None]}))["loss"]
    assert math.isnan(found[0])
    assert found[1] is None


def test_counts_beyond_what_float32_holds_arrive_whole():
    for count in (torch.tensor(2**24 + 1), torch.tensor(2.0**53, dtype=torch.float64)):
        assert columns_of(block(num_rows=1, count=[count]))["count"] == [int(count)]


def test_several_dtypes_in_one_column_and_several_lengths_in_another():
    cells = [torch.tensor(1.5), torch.tensor(0.1, dtype=torch.float64), torch.tensor(3)]
    lists = [torch.arange(3.0), None, torch.zeros(0)]
    found = columns_of(block(mean=cells, channel_mean=lists))
    assert found["mean"] == [1.5, 0.1, 3.0]
    assert [None if cell is None else cell.tolist() for cell in found["channel_mean"]] == [[0.0, 1.0, 2.0], None, []]


def test_cells_that_cannot_be_laid_flat_as_they_are():
    x = torch.arange(12.0).reshape(3, 4)
    negated = torch.tensor([1 + 2j]).conj().imag  # a view that is negated when it is read
    cells = [x.T[0], x[:, ::2][1], negated]
    found = columns_of(block(channel_mean=cells))["channel_mean"]
    assert [cell.tolist() for cell in found] == [[0.0, 4.0, 8.0], [4.0, 6.0], [-2.0]]
    graded = torch.ones((), requires_grad=True) * 2
    assert columns_of(block(num_rows=1, mean=[graded]))["mean"] == [2.0]


def test_shapes_are_kept_on_the_way():
    shapes = [(11, 3), (11, 1), (11, 3)]
    cells = [torch.randn(shape) for shape in shapes]
    (host,) = receive(send([block(num_rows=4, packed=[cells[0], None, *cells[1:]])]))
    packed = host.columns["packed"]
    assert isinstance(packed, TensorCells)
    for found, wanted in zip(packed.arrays(), cells, strict=True):
        assert np.array_equal(found, wanted.numpy())
    stacks = {stack.shape: (rows.tolist(), stack) for rows, stack in packed.by_shape()}
    assert {shape: rows for shape, (rows, _) in stacks.items()} == {(2, 11, 3): [0, 3], (1, 11, 1): [2]}
    assert np.array_equal(stacks[2, 11, 3][1], torch.stack([cells[0], cells[2]]).numpy())


def test_histograms_become_their_filled_buckets():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randint(0, 40, (3, NUM_BUCKETS), generator=generator).sub(37).clamp(min=0)
    dense[1] = 0
    dense[2, -1] = 2**40
    cells = [*dense[:2], None, dense[2]]
    found = columns_of(block(num_rows=4, histogram=cells, histogram_bucket=[None] * 4))
    for row, cell in zip((0, 1, 3), dense.tolist(), strict=True):
        filled = [(number - OVERFLOW, count) for number, count in enumerate(cell) if count]
        assert (
            list(zip(found["histogram_bucket"][row].tolist(), found["histogram"][row].tolist(), strict=True)) == filled
        )
    assert found["histogram_bucket"][2] is None
    assert found["histogram"][2] is None


def test_rows_without_a_value_have_no_moments_and_say_why():
    nan = torch.tensor(math.nan)
    found = columns_of(
        block(
            num_rows=4,
            count=[torch.tensor(0), torch.tensor(0), torch.tensor(5), None],
            mean=[nan, nan, nan, None],
            m2=[nan, nan, torch.tensor(2.0), None],
            null_reason=[None, "the number of channels differs", None, "not reached"],
        )
    )
    assert found["m2"] == [None, None, 2.0, None]
    assert found["mean"][:2] == [None, None]
    assert math.isnan(found["mean"][2])
    assert found["null_reason"] == ["no finite values", "the number of channels differs", None, "not reached"]


def test_distances_that_no_channel_defines_are_null_and_say_why():
    nan, one = torch.tensor(math.nan), torch.tensor(1.0)
    found = columns_of(
        block(
            "drift",
            reference=["before_update"] * 3,
            mean_shift=[nan, one, one],
            floor_mean_shift=[nan, nan, one],
            null_reason=["first step", None, None],
        )
    )
    assert found["mean_shift"] == [None, 1.0, 1.0]
    assert found["floor_mean_shift"] == [None, None, 1.0]
    why = "no channel varies on both sides, or a value is not finite"
    assert found["null_reason"] == [f"first step; {why}; floor: {why}", f"floor: {why}", None]


def test_blocks_of_a_table_are_put_below_each_other_in_order():
    first, second = (block(num_rows=1, mean=[torch.tensor(value)]) for value in (1.0, 2.0))
    other = block("gradients", num_rows=1, mean=[torch.tensor(3.0)])
    found = [(table, columns["mean"]) for table, columns in to_host([first, other, second])]
    assert found == [("activations", [1.0, 2.0]), ("gradients", [3.0])]
    assert to_host([]) == []


def test_a_device_copies_once_however_many_columns_and_types(monkeypatch):
    """The meta device has no values, but it tells how often it is asked for them."""
    stretches = []
    monkeypatch.setattr(transfer, "_to_host_memory", stretches.append)
    cells = [
        torch.zeros(shape, dtype=dtype, device="meta") for shape in ((), (3,)) for dtype in (torch.half, torch.long)
    ]
    send([block(num_rows=4, mean=cells, m2=cells), block(num_rows=1, m3=[torch.ones(())])])
    (stretch,) = stretches
    assert stretch.device.type == "meta"
    assert stretch.numel() == 2 * (16 + 32)  # 4 halves and 4 longs a column, each from a multiple of 16 bytes on


def test_a_device_without_room_to_gather_is_copied_piece_by_piece(monkeypatch):
    """A CPU tensor stands in for a device here: its values must survive the slow way too."""
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    piece = transfer._Piece(np.arange(2), tensors)

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch, "empty", full)
    transfer._start_copy(torch.device("cpu"), [piece])
    assert piece.copied is None
    assert [cell.tolist() for cell in transfer._values(piece)] == [[1.0, 2.0], [3.0]]


def test_gathering_lays_every_piece_where_it_is_read():
    pieces = [
        transfer._Piece(np.arange(2), [torch.tensor(1.5), torch.tensor(2.5)]),
        transfer._Piece(np.arange(1), [torch.tensor([2**40, 1])]),
        transfer._Piece(np.arange(2), [torch.ones(3, dtype=torch.bfloat16), torch.tensor(2, dtype=torch.bfloat16)]),
    ]
    transfer._start_copy(torch.device("cpu"), pieces)
    assert [transfer._values(piece).tolist() for piece in pieces] == [[1.5, 2.5], [2**40, 1], [1, 1, 1, 2]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned copies need a GPU")
def test_a_gpu_is_copied_to_pinned_memory_without_waiting():
    cells = [torch.full((size,), float(size), device="cuda") for size in range(5)]
    sent = send([block(num_rows=5, channel_mean=cells)])
    (host,) = receive(sent)
    assert [array.tolist() for array in host.columns["channel_mean"].arrays()] == [[float(n)] * n for n in range(5)]


def test_cells_that_are_parts_of_one_tensor_arrive_as_cells_by_themselves():
    generator = torch.Generator().manual_seed(0)
    stacks = [torch.rand(3, 11, 1, generator=generator, dtype=torch.float64) for _ in range(3)]
    own = torch.rand(11, 4, generator=generator, dtype=torch.float64)
    columns = [
        Stacked(stacks[0], [2, 0, -1, 0]),
        Stacked(stacks[1], [-1, 1, 2, -1], {0: own, 3: None}),
        [stacks[0][1], None, own, stacks[2][0]],
    ]
    wanted = [cell for column in columns for cell in column]
    assert [None if cell is None else cell.tolist() for cell in columns[0]] == [
        *(stacks[0][place].tolist() for place in (2, 0)),
        None,
        stacks[0][0].tolist(),
    ]
    for chosen in (columns, columns[:1], columns[:2], columns[1:]):
        expected = wanted[4 * columns.index(chosen[0]) :]
        (host,) = receive(send([block(num_rows=4, packed=column) for column in chosen]))
        packed = host.columns["packed"]
        assert isinstance(packed, TensorCells)
        assert packed.num_rows == 4 * len(chosen)
        for found, cell in zip(packed.cells(), expected, strict=False):
            assert (found is None) == (cell is None)
            if cell is not None:
                assert np.array_equal(found, cell.numpy())


def test_a_tensor_is_counted_once_however_many_cells_are_parts_of_it():
    stacked = Stacked(torch.zeros(3, 11, 1), [0, 0, -1], {2: torch.zeros(2)})
    assert sorted(transfer.tensor_sizes(block(packed=stacked, mean=[torch.zeros(()), None, np.ones(5)]))) == [
        1,
        2,
        5,
        33,
    ]


def test_a_device_copies_parts_of_its_tensors_too(monkeypatch):
    stretches = []
    monkeypatch.setattr(transfer, "_to_host_memory", stretches.append)
    send([block(num_rows=2, packed=Stacked(torch.zeros(3, 11, 1, device="meta"), [0, 2]))])
    assert stretches[0].numel() == 2 * 11 * 4 + 8  # to a multiple of 16 bytes
