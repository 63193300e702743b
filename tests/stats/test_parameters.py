"""Norms, updates and statistics of many tensors in one call: against float64, `reduce`, and one thread."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ics import stats
from ics.buckets import OVERFLOW
from ics.stats.parameters import changes_of, extents_of, gradients_of, is_taken

SHAPES = ((), (1,), (7,), (100,), (2, 3), (1, 5000), (100, 100), (3, 2049), (64, 16, 3, 3), (400, 700), (300_000,))


def make(kind: str, shapes=SHAPES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    if kind == "tiny":
        return [1e-12 * x for x in values]
    if kind == "far":
        return [x + 1000 for x in values]
    if kind == "constant":
        return [torch.full_like(x, 0.1) for x in values]
    if kind == "huge":
        return [1e30 * x for x in values]
    if kind == "sparse":
        return [torch.where(x.abs() > 1, x, torch.zeros_like(x)) for x in values]
    if kind == "nonfinite":
        for number, x in enumerate(values):
            x.view(-1)[::3] = (torch.nan, torch.inf, -torch.inf)[number % 3]
    if kind == "channels_last":
        return [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in values]
    return values


KINDS = ("normal", "tiny", "far", "constant", "huge", "sparse", "nonfinite", "channels_last")


def as_matrix(x: torch.Tensor, *, per_channel: bool) -> torch.Tensor:
    """The values as rows of channels: entries along the first axis, or all of them as one."""
    return x.reshape(x.shape[0], -1) if per_channel and x.ndim > 1 else x.reshape(1, -1)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_moments_and_squares_are_those_of_float64(kind, per_channel, threads):
    tensors = make(kind)
    gradients = gradients_of(extents_of(tensors), per_channel=per_channel, histogram=False)
    found = gradients.measure(tensors)
    assert found.buckets is None
    for x, packed, squares in zip(tensors, found.moments(), found.squares, strict=True):
        matrix = as_matrix(x, per_channel=per_channel)
        np.testing.assert_allclose(squares, np.sum(matrix.double().numpy() ** 2), rtol=1e-13)
        oracle(matrix.double().numpy(), packed.numpy())


def oracle(rows: np.ndarray, packed: np.ndarray) -> None:
    found = dict(zip(stats.PACKED, packed, strict=True))
    assert np.isnan(found["saturated_count"]).all()
    for channel, row in enumerate(rows):
        finite = row[np.isfinite(row)]
        here = {name: cells[channel] for name, cells in found.items()}
        assert here["count"] == len(finite)
        assert here["nonfinite_count"] == len(row) - len(finite)
        assert here["zero_count"] == (finite == 0).sum()
        assert here["negative_count"] == (finite < 0).sum()
        if not len(finite):
            assert all(np.isnan(here[name]) for name in ("mean", "m2", "m3", "m4", "minimum", "maximum"))
            continue
        assert (here["minimum"], here["maximum"]) == (finite.min(), finite.max())
        d = finite - finite.mean()
        spread = np.abs(d).max()
        np.testing.assert_allclose(here["mean"], finite.mean(), rtol=1e-6, atol=1e-6 * spread)
        if finite.min() == finite.max():
            assert here["m2"] == here["m3"] == here["m4"] == 0
            continue
        for power, name in ((2, "m2"), (3, "m3"), (4, "m4")):
            scale = np.mean(np.abs(d) ** power)
            np.testing.assert_allclose(here[name], np.mean(d**power), rtol=2e-5, atol=2e-5 * scale)


@pytest.mark.parametrize("max_values", [None, 1000, 65_536])
@pytest.mark.parametrize("kind", ["normal", "tiny", "huge", "sparse", "nonfinite", "channels_last"])
def test_histograms_are_those_of_separate_operations_count_by_count(kind, max_values, threads):
    tensors = make(kind)
    gradients = gradients_of(extents_of(tensors), per_channel=False, histogram=True, max_values=max_values)
    found = gradients.measure(tensors)
    for x, buckets, counts in zip(tensors, found.buckets, found.counts, strict=True):
        dense = stats.histogram(x, max_values=max_values).numpy()
        assert buckets.tolist() == (np.flatnonzero(dense) - OVERFLOW).tolist()
        assert counts.tolist() == dense[dense > 0].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_norms_and_updates_are_those_of_float64(kind, threads):
    before = make(kind)
    after = [x + (0.01 * x).roll(1) for x in before]
    found = changes_of(extents_of(before)).measure(before, after)
    for x, y, (squares, changes) in zip(before, after, found, strict=True):
        np.testing.assert_allclose(squares, np.sum(x.double().numpy() ** 2), rtol=1e-13)
        np.testing.assert_allclose(changes, np.sum((y - x).double().numpy() ** 2), rtol=1e-13)


def test_results_depend_neither_on_threads_nor_on_what_was_measured_before():
    tensors, others = make("normal"), make("nonfinite")
    gradients = gradients_of(extents_of(tensors), per_channel=True, histogram=True)
    changes = changes_of(extents_of(tensors))
    first, sums = gradients.measure(tensors), changes.measure(tensors, others)
    kept = [first.squares.copy(), first.packed.clone(), [x.copy() for x in first.counts], sums.copy()]
    gradients.measure(others)
    changes.measure(others, tensors)
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        again, sums_again = gradients.measure(tensors), changes.measure(tensors, others)
    finally:
        torch.set_num_threads(before)
    for result in (first, again):
        np.testing.assert_array_equal(result.squares, kept[0])
        assert result.packed.view(torch.int64).equal(kept[1].view(torch.int64))
        assert all(map(np.array_equal, result.counts, kept[2]))
    np.testing.assert_array_equal(sums, kept[3])
    np.testing.assert_array_equal(sums_again, kept[3])


def test_what_the_kernels_cannot_read_is_refused():
    gaps = torch.zeros(4, 6)[:, ::2]
    assert changes_of(extents_of([gaps])) is None
    assert gradients_of(extents_of([gaps]), per_channel=False, histogram=False) is None
    transposed = torch.zeros(3, 4).T  # the channels do not lie one after the other; all values in one do
    assert gradients_of(extents_of([transposed]), per_channel=True, histogram=False) is None
    assert gradients_of(extents_of([transposed]), per_channel=False, histogram=True) is not None
    assert changes_of([]) is None
    for other in (
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(2, device="meta"),
        torch.zeros(2, 2).to_sparse(),
        torch._neg_view(torch.zeros(2)),
    ):
        assert not is_taken(other)
    assert is_taken(torch.zeros(2))
    stats.use_backend("eager")
    try:
        assert changes_of(extents_of([torch.zeros(2)])) is None
    finally:
        stats.use_backend("auto")


def test_a_tensor_without_values_has_a_sum_of_nothing():
    tensors = [torch.zeros(0), torch.ones(3)]
    assert changes_of(extents_of(tensors)) is None or (
        changes_of(extents_of(tensors)).measure(tensors, tensors).tolist() == [[0, 0], [3, 0]]
    )
    found = gradients_of(extents_of(tensors), per_channel=False, histogram=False).measure(tensors)
    assert found.squares.tolist() == [0, 3]
    assert found.pooled()[0].tolist() == [0, 3]
    assert np.isnan(found.pooled()[1][0])
