"""Rows that are measured together are merged as rows by themselves are, whichever way each pass went."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from ics import stats
from ics.probes.following.site_statistics import Statistics
from ics.probes.planned.table_rows import TableRows
from ics.records import Stacked
from tests.probes.rows import rows_of

SHAPES = ((6, 3), (8, 5), (6, 1))
PLACES = {4: 0, 2: 1, 0: 2, 1: 0}  # row 1 has the statistics of row 4; row 3 is measured by itself
BOUNDED = (False, True, False, False, True)


def tensors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.rand(shape, generator=generator) for shape in SHAPES]
    made[0][0, 0] = torch.nan
    return made


def group(*, per_channel: bool, histogram: bool) -> stats.Group:
    tasks = [
        stats.Task(shape, (shape[1], 1), torch.float32, 1, (0.0, 1.0) if number == 0 else None)
        for number, shape in enumerate(SHAPES)
    ]
    found = stats.group_of(tasks, histogram=histogram, per_channel=per_channel)
    assert found is not None
    return found


def by_itself(number: int, x: Tensor, *, histogram: bool) -> stats.Reduced:
    return stats.reduce(x, channel_axis=1, saturation=(0.0, 1.0) if number == 0 else None, histogram=histogram)


@pytest.mark.parametrize("histogram", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("passes", list(product("ta", repeat=3)), ids="".join)
def test_passes_in_any_way_and_order(passes: tuple[str, ...], per_channel: bool, histogram: bool) -> None:
    pytest.importorskip("numba", reason="groups are measured by the kernels of the extra `fast`")
    rows = TableRows(BOUNDED, per_channel=per_channel)
    expected = [Statistics(bounded=each, per_channel=per_channel) for each in BOUNDED]
    together = group(per_channel=per_channel, histogram=histogram)
    for seed, way in enumerate(passes):
        made = tensors(seed)
        if way == "t":
            rows.add_together(PLACES, together.measure(made))
        for row, number in PLACES.items():
            reduced = by_itself(number, made[number], histogram=histogram)
            expected[row].add(reduced)
            if way == "a":
                rows.add(row, reduced)
        expected[3].add(by_itself(1, made[1], histogram=histogram))
        rows.add(3, by_itself(1, made[1], histogram=histogram))
    keys = {"layer": list("abcde"), "layer_index": [0] * 5, "call": [0] * 5, "site": ["input"] * 5}
    block = rows.block("activations", keys, range(5), [None] * 5)
    assert isinstance(block.columns.get("packed"), Stacked) == (not per_channel and "a" not in passes)
    other = TableRows(BOUNDED, per_channel=per_channel)
    for row, each in enumerate(expected):
        assert each.moments is not None
        other._alone[row] = each
    wanted = rows_of(other.block("activations", keys, range(5), [None] * 5))
    for found, row in zip(rows_of(block), wanted, strict=True):
        for name, cell in row.items():
            np.testing.assert_equal(found[name], cell, err_msg=name)


def test_rows_that_nothing_was_measured_of_say_why() -> None:
    rows = TableRows((False, False), per_channel=False)
    rows.add_together({0: 0}, stats.GroupStatistics(torch.ones(1, len(stats.PACKED), 1, dtype=torch.float64), None))
    keys = {"layer": ["a", "b"], "layer_index": [0, 1], "call": [0, 0], "site": ["input"] * 2}
    found = rows_of(rows.block("activations", keys, range(2), ["why", "why not"]))
    assert [row["null_reason"] for row in found] == [None, "why not"]
    assert [row["mean"] for row in found] == [1.0, None]


def test_pooled_rows_whose_number_of_channels_differs_lack_nothing() -> None:
    halves = [torch.rand(4, 3), torch.rand(2, 5)]
    pooled, own = Statistics(per_channel=False), Statistics()
    for half in halves:
        pooled.add(stats.reduce(half, channel_axis=1))
        own.add(stats.reduce(half, channel_axis=1))
    assert pooled.reason(None) is None
    assert "number of channels differs" in str(own.reason(None))
    every = torch.cat([half.flatten() for half in halves]).double()
    assert pooled.moments is not None
    assert pooled.moments.shape == (len(stats.PACKED), 1)
    assert pooled.moments[1].item() == pytest.approx(every.mean().item(), rel=1e-6)
    assert pooled.moments[2].item() == pytest.approx(every.var(correction=0).item(), rel=1e-6)
