"""A group measures each of its tensors as `reduce` does, bit for bit."""

from __future__ import annotations

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


def task_of(x: Tensor, axis: int, saturation: tuple[float, float] | None = None, **options: float) -> stats.Task:
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
        for found, x, (axis, saturation) in zip(group.measure(tensors), tensors, choices, strict=True):
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
    found = stats.unpack(group.measure([x, x])[1].moments, has_asymptotes=False)
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
    found = group.measure([x, x])[1]
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
