"""The sums of Theorem 4.1 against numpy in float64, by each backend."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from ics import stats
from ics.errors import UsageError

SHAPES = [(7, 3), (128, 100), (2, 3, 5), (5, 4, 3, 3), (3, 2, 40, 60), (2, 3, 2, 3, 4), (1, 1, 1), (300, 2, 1)]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def made(shape, dtype=torch.float32, *, seed=0, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(shape, generator=generator, dtype=torch.float64) + shift).to(dtype) for shift in (mean, 0.1, -0.2)
    ]


def oracle(x: Tensor, g: Tensor, d: Tensor | None, axis: int) -> np.ndarray:
    """Plain formulas in float64, two passes."""
    rows = [
        None if each is None else np.moveaxis(each.double().numpy(), axis, 0).reshape(x.shape[axis], -1)
        for each in (x, g, d)
    ]
    values, gradient, back = rows
    mean = values.mean(1)
    c = values - mean[:, None]
    return np.stack(
        [
            mean,
            (c * c).mean(1),
            gradient.sum(1),
            (gradient * gradient).sum(1),
            (gradient * c).sum(1),
            np.full(len(mean), np.nan) if back is None else (back * back).sum(1),
        ]
    )


def assert_sums(found: Tensor, x: Tensor, g: Tensor, d: Tensor | None, axis: int = 1) -> None:
    """Assert equality up to the rounding of float64, whose unit in a sum is that of its absolute values."""
    assert (found.dtype, found.shape) == (torch.float64, (len(stats.SUMS), x.shape[axis]))
    expected = oracle(x, g, d, axis)
    own = np.moveaxis(x.double().numpy(), axis, 0).reshape(x.shape[axis], -1)
    gradients = np.moveaxis(g.double().numpy(), axis, 0).reshape(x.shape[axis], -1)
    unit = {
        "mean": np.abs(own).mean(1),
        "gradient": np.abs(gradients).sum(1),
        "gradient_along": np.abs(gradients * (own - own.mean(1, keepdims=True))).sum(1)
        + np.abs(own).max(1) * np.abs(gradients).sum(1) * 1e-3,  # rounding of the oracle's own mean
    }
    for row, name in enumerate(stats.SUMS):
        scale = unit.get(name, np.abs(expected[row]))
        np.testing.assert_array_less(np.abs(found[row].numpy() - expected[row]), 1e-12 * scale + 1e-300, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("backend")
def test_equals_numpy_along_every_axis(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, g, d = made(shape, dtype)
    for axis in range(len(shape)):
        assert_sums(stats.backward_sums(x, g, d, channel_axis=axis), x, g, d, axis)
    assert torch.equal(stats.backward_sums(x, g, d, channel_axis=-1), stats.backward_sums(x, g, d, channel_axis=axis))


@pytest.mark.usefixtures("backend")
def test_any_memory_layout_of_any_of_the_three() -> None:
    x, g, d = made((4, 6, 5, 7))
    layouts = {
        "contiguous": lambda t: t.contiguous(),
        "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "transposed": lambda t: t.transpose(0, 3).contiguous().transpose(0, 3),
        "gaps": lambda t: torch.stack([t, t], 2)[:, :, 0],
    }
    for first in layouts.values():
        for second in layouts.values():
            for third in layouts.values():
                assert_sums(stats.backward_sums(first(x), second(g), third(d), channel_axis=1), x, g, d)
    one = torch.ones(()).expand(4, 6, 5, 7)  # what `sum().backward()` sends back
    assert_sums(stats.backward_sums(x, one, one, channel_axis=1), x, one, one)


@pytest.mark.usefixtures("backend")
def test_types_may_differ_and_the_last_may_be_absent() -> None:
    x, g, d = made((6, 5, 9, 9))
    for first in DTYPES[::2]:
        for second in DTYPES[::3]:
            y, h = x.to(first), g.to(second)
            assert_sums(stats.backward_sums(y, h, d, channel_axis=1), y, h, d)
    found = stats.backward_sums(x, g, channel_axis=1)
    assert torch.equal(found[:5], stats.backward_sums(x, g, d, channel_axis=1)[:5])
    assert found[5].isnan().all()


@pytest.mark.parametrize("shape", [(64, 3, 8, 8), (9, 3, 40, 40), (5000, 3)], ids=str)
@pytest.mark.usefixtures("backend")
def test_a_huge_mean_and_tiny_gradients_lose_nothing(shape: tuple[int, ...]) -> None:
    x, g, d = made(shape, mean=1e6)
    x[0, 0] += 1e4  # a first value far from the others
    g, d = g * 1e-30, d * 1e-30  # their squares are no float32
    assert_sums(stats.backward_sums(x, g, d, channel_axis=1), x, g, d)
    expected = oracle(x, g, d, 1)
    np.testing.assert_allclose(stats.backward_sums(x, g, d, channel_axis=1)[1], expected[1], rtol=1e-9)


@pytest.mark.parametrize("shape", [(64, 3, 8, 8), (9, 3, 40, 40), (500, 3)], ids=str)
@pytest.mark.usefixtures("backend")
def test_a_constant_channel_has_variance_0_exactly(shape: tuple[int, ...]) -> None:
    x, g, d = made(shape)
    x[:, 1] = 0.1
    mean, variance, _, _, along, _ = stats.backward_sums(x, g, d, channel_axis=1)
    assert (mean[1].item(), variance[1].item(), along[1].item()) == (x[0, 1].flatten()[0].item(), 0.0, 0.0)
    assert (variance[[0, 2]] > 0.5).all()


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("shape", [(64, 3, 8, 8), (9, 3, 40, 40), (500, 3)], ids=str)
@pytest.mark.usefixtures("backend")
def test_what_is_not_finite_enters_and_stays_in_its_channel(shape: tuple[int, ...], place: int) -> None:
    clean = made(shape)
    for which, value in (
        (0, torch.nan),
        (0, torch.inf),
        (0, -torch.inf),
        (1, torch.nan),
        (1, torch.inf),
        (2, torch.nan),
    ):
        tensors = [each.clone() for each in clean]
        tensors[which][(place, 1, *[place] * (len(shape) - 2))] = value
        found = stats.backward_sums(*tensors, channel_axis=1)
        with np.errstate(invalid="ignore"):
            expected = oracle(*tensors, 1)
        assert_sums(found[:, [0, 2]], *(each[:, [0, 2]] for each in tensors))
        np.testing.assert_array_equal(
            found[:, 1].isfinite().numpy(), np.isfinite(expected[:, 1]), err_msg=f"{which} {value}"
        )
        if which == 0:
            np.testing.assert_array_equal(found[0, 1].numpy(), expected[0, 1])


@pytest.mark.usefixtures("backend")
def test_no_values() -> None:
    empty = torch.zeros(0, 3, 2)
    assert stats.backward_sums(empty, empty, empty, channel_axis=1).isnan().all()
    assert stats.backward_sums(empty, empty, channel_axis=0).shape == (6, 0)


@pytest.mark.usefixtures("backend")
def test_mistakes_are_told() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(UsageError, match=r"gradient must have the shape of the input, \(2, 3\), but \(3, 2\) came"):
        stats.backward_sums(x, torch.zeros(3, 2), channel_axis=1)
    with pytest.raises(UsageError, match="floating point"):
        stats.backward_sums(x.long(), x, channel_axis=1)
    with pytest.raises(UsageError, match="floating point"):
        stats.backward_sums(x, x.long(), channel_axis=1)
    with pytest.raises(UsageError, match="channel_axis"):
        stats.backward_sums(x, x, channel_axis=2)


def test_threads_change_no_bit() -> None:
    tensors = made((40, 16, 32, 32))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(stats.backward_sums(*tensors, channel_axis=1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_importing_needs_no_numba() -> None:
    program = "import sys; sys.modules['numba'] = None; from ics import stats; import torch; x = torch.ones(2, 3); "
    program += "print(stats.backward_sums(x, x, x, channel_axis=1).sum().item())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) == 3 + 0 + 6 + 6 + 0 + 6
