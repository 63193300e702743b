"""A group measures each of its tensors as `reduce` does, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ics import stats

SHAPES = [
    ((128, 100), 1, None),
    ((6, 3, 4, 5), 1, None),
    ((7, 9), -1, (0.0, 1.0)),
    ((2, 5, 4), 2, None),
    ((1, 1), 1, None),
]


def task_of(x: Tensor, axis: int, saturation: tuple[float, float] | None = None, **options: Any) -> stats.Task:
    return stats.Task(tuple(x.shape), x.stride(), x.dtype, axis, saturation, **options)


@pytest.fixture(autouse=True)
def kernels() -> None:
    pytest.importorskip("numba", reason="groups are measured by the kernels of the extra `fast`")


@pytest.mark.parametrize("histogram", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_tensor_is_measured_as_reduce_does(dtype: torch.dtype, histogram: bool) -> None:
    tasks, group = [], None
    for seed in range(3):
        torch.manual_seed(seed)
        tensors = [torch.randn(shape).mul(3).to(dtype) for shape, _, _ in SHAPES]
        tensors.append(torch.randn(4, 6, 5).to(dtype).transpose(1, 2))
        tensors[0][0, seed] = torch.nan
        choices = [(axis, saturation) for _, axis, saturation in SHAPES] + [(1, None)]
        tasks = [task_of(x, *choice) for x, choice in zip(tensors, choices, strict=True)]
        group = group or stats.group_of(tasks, histogram=histogram)
        assert group is not None
        assert all(task.fits(x) for task, x in zip(tasks, tensors, strict=True))
        for found, x, (axis, saturation) in zip(group.measure(tensors).each(), tensors, choices, strict=True):
            wanted = stats.reduce(x, channel_axis=axis, saturation=saturation, histogram=histogram)
            np.testing.assert_array_equal(found.moments.numpy(), wanted.moments.numpy())
            assert (found.histogram is None) == (not histogram)
            if found.histogram is not None and wanted.histogram is not None:
                assert torch.equal(found.histogram, wanted.histogram)


@pytest.mark.parametrize("shape", [(64, 10), (5, 4, 6, 6)])
def test_normalized_values_are_those_of_batch_norm(shape: tuple[int, ...]) -> None:
    x, eps = torch.randn(shape) * 5 + 3, 1e-2
    group = stats.group_of([task_of(x, 1), task_of(x, 1, normalizes=0, eps=eps)], histogram=True)
    assert group is not None
    found = stats.unpack(group.measure([x, x]).each()[1].moments, has_asymptotes=False)
    rows = x.double().transpose(0, 1).flatten(1).numpy()
    x_hat = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + eps)
    np.testing.assert_allclose(found.mean.numpy(), 0, atol=1e-6)
    for power, moment in ((2, found.m2), (3, found.m3), (4, found.m4)):
        np.testing.assert_allclose(moment.numpy(), (x_hat**power).mean(1), rtol=2e-5, atol=1e-5)
    np.testing.assert_array_equal(found.negative_count.numpy(), (x_hat < 0).sum(1))


def test_a_value_that_is_not_finite_spreads_over_its_channel_of_x_hat() -> None:
    x = torch.randn(8, 3)
    x[2, 1] = torch.inf
    group = stats.group_of([task_of(x, 1), task_of(x, 1, normalizes=0, eps=1e-5)], histogram=True)
    assert group is not None
    found = group.measure([x, x]).each()[1]
    assert stats.unpack(found.moments, has_asymptotes=False).nonfinite_count.tolist() == [0, 8, 0]
    assert found.histogram is not None
    assert int(found.histogram.sum()) == 16


@pytest.mark.parametrize(
    "x", [torch.randn(4, 3, dtype=torch.float64), torch.randn(0, 3), torch.randn(3).expand(4, 3), torch.randn(2**19, 4)]
)
def test_what_the_kernels_do_not_take_at_once_has_no_group(x: Tensor) -> None:
    assert stats.group_of([task_of(x, 1)], histogram=True) is None


def test_there_is_no_group_without_kernels() -> None:
    x = torch.randn(4, 3)
    assert stats.group_of([], histogram=True) is None
    stats.use_backend("eager")
    try:
        assert stats.group_of([task_of(x, 1)], histogram=True) is None
    finally:
        stats.use_backend("auto")


def test_a_task_fits_its_layout_only() -> None:
    task = task_of(torch.zeros(4, 3), 1)
    assert task.fits(torch.ones(4, 3))
    assert not task.fits(torch.ones(5, 3))
    assert not task.fits(torch.ones(3, 4).T)
    assert not task.fits(torch.ones(4, 3).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_pooled_rows_are_those_of_the_whole_tensors_in_one_piece(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(64, 7) * torch.logspace(-3, 1, 7) + torch.linspace(-30, 30, 7)).to(dtype)
    huge, constant, bad = x + 1e4, torch.full((64, 7), 3.0, dtype=dtype), x.clone()
    bad[3, 1], bad[5, 1], bad[:, 4] = torch.nan, torch.inf, torch.nan
    empty = torch.full((64, 7), torch.nan, dtype=dtype)
    tensors = [x, huge, constant, bad, empty, torch.sigmoid(x), x]
    choices = [(1, None)] * 5 + [(1, (0.0, 1.0)), (0, None)]
    tasks = [task_of(each, *choice) for each, choice in zip(tensors, choices, strict=True)]
    tasks.append(task_of(x, 1, normalizes=0, eps=1e-5))
    tensors.append(x)
    group = stats.group_of(tasks, histogram=True, per_channel=False)
    by_channel = stats.group_of(tasks, histogram=True)
    assert group is not None
    assert by_channel is not None
    for _ in range(2):  # the group keeps its buffers from call to call
        found, wanted = group.measure(tensors), by_channel.measure(tensors).each()
    assert isinstance(found.moments, Tensor)
    assert found.moments.shape == (8, len(stats.PACKED), 1)
    columns = stats.columns_of(found.moments, per_channel=False)
    for number, (tensor, each) in enumerate(zip(tensors, wanted, strict=True)):
        assert torch.equal(found.moments[number].isnan(), stats.pooled(each.moments).isnan())
        np.testing.assert_array_equal(found.moments[number].numpy(), stats.pooled(each.moments).numpy())
        for name, cell in stats.columns_of(each.moments[None], per_channel=False).items():
            scale = float(columns["maximum"][number].abs() + columns["minimum"][number].abs())
            near = 1e-13 * scale ** int(name[1]) if name in ("m2", "m3", "m4") else 1e-13 * scale
            np.testing.assert_allclose(columns[name][number], cell[0], rtol=1e-12, atol=np.nan_to_num(near))
        if number < 7:
            values = tensor.double().numpy().reshape(-1)
            values = values[np.isfinite(values)]
            assert columns["count"][number] == len(values)
            if len(values):
                oracle = [values.mean(), *(((values - values.mean()) ** k).mean() for k in (2, 3, 4))]
                spread = np.abs(values - values.mean()).max()
                for power, (name, value) in enumerate(zip(("mean", "m2", "m3", "m4"), oracle, strict=True), 1):
                    np.testing.assert_allclose(columns[name][number], value, rtol=1e-5, atol=1e-6 * spread**power)
    assert found.histograms is not None
    assert torch.equal(found.histograms, torch.stack([each.histogram for each in wanted if each.histogram is not None]))


def test_tensors_are_measured_times_a_factor_per_channel() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(16, 5), torch.randn(4, 3, 6), torch.randn(16, 5)]
    factors = [torch.tensor([1.0, -2.0, 0.0, 0.3, 1e-3]), torch.tensor([0.1, 1.0, torch.nan])]
    tasks = [task_of(tensors[0], 1, scaled=True), task_of(tensors[1], 1, scaled=True), task_of(tensors[2], 1)]
    group = stats.group_of(tasks, histogram=True)
    assert group is not None
    for factor in (1.0, 3.0):
        scaled = [each * factor for each in factors]
        found = group.measure(tensors, factors=scaled).each()
        wanted = [tensors[0] * scaled[0], tensors[1] * scaled[1][:, None], tensors[2]]
        for reduced, x in zip(found, wanted, strict=True):
            expected = stats.reduce(x, channel_axis=1)
            np.testing.assert_array_equal(reduced.moments.numpy(), expected.moments.numpy())
            assert reduced.histogram is not None
            assert expected.histogram is not None
            assert torch.equal(reduced.histogram, expected.histogram)
