"""Batches go through every example once an epoch, normalised, in an order that only the seed decides."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch

from ics.errors import SelectionError, UsageError
from ics.experiments import Data, Examples, recipe
from ics.experiments.data.datasets import digits, gaussian, load_data
from ics.experiments.data.examples import channel_statistics, image_data


def numbered(size: int = 20) -> Data:
    """Images whose single pixel is their number."""
    images = torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1)
    return image_data(train=Examples(images, torch.arange(size)), test=None, classes=tuple(map(str, range(size)))).to(
        "cpu", torch.float32
    )


def order(data: Data, **settings: object) -> list[list[int]]:
    return [targets.tolist() for _, targets in data.batches(**settings)]


def flat(batches: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


def test_an_epoch_holds_every_example_once() -> None:
    batches = order(numbered(20), batch_size=5, num_batches=8, seed=0)
    first, second = flat(batches[:4]), flat(batches[4:])
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_leftovers_of_an_epoch_are_dropped() -> None:
    batches = order(numbered(20), batch_size=6, num_batches=7, seed=0)
    assert [len(batch) for batch in batches] == [6] * 7
    assert all(len(set(flat(batches[first : first + 3]))) == 18 for first in (0, 3))


def test_only_the_seed_decides_the_order() -> None:
    data = numbered(20)
    expected = order(data, batch_size=5, num_batches=6, seed=3)
    drawn = [(torch.rand(3), targets.tolist())[1] for _, targets in data.batches(batch_size=5, num_batches=6, seed=3)]
    assert drawn == expected
    assert order(data, batch_size=5, num_batches=6, seed=4) != expected


def test_batches_draw_nothing_from_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    order(numbered(20), batch_size=5, num_batches=6, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_full_batch_is_always_the_same() -> None:
    batches = order(numbered(20), batch_size=None, num_batches=3, seed=0)
    assert batches == [list(range(20))] * 3


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UsageError, match="type batch_size=20"):
        order(numbered(20), batch_size=21, num_batches=1, seed=0)


def test_inputs_are_normalised_per_channel() -> None:
    images = torch.randint(0, 256, (50, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = image_data(train=Examples(images, torch.zeros(50, dtype=torch.int64)), test=None, classes=("a", "b"))
    inputs, _ = data.to("cpu", torch.float64).batch(data.train, slice(None))
    pixels = images.numpy().astype(np.float64)
    expected = (pixels - pixels.mean((0, 2, 3), keepdims=True)) / pixels.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(inputs.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_statistics_over_several_chunks_and_a_constant_channel() -> None:
    images = torch.randint(0, 256, (9000, 2, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] = 200
    mean, std = channel_statistics(images)
    pixels = images[:, 0].numpy().astype(np.float64)
    np.testing.assert_allclose(mean.flatten(), [pixels.mean(), 200.0], rtol=1e-13)
    np.testing.assert_allclose(std.flatten(), [pixels.std(), 1.0], rtol=1e-12)


def test_limit_keeps_the_first_of_each_class() -> None:
    targets = torch.tensor([0, 1, 0, 0, 1, 1, 0])
    images = torch.arange(7, dtype=torch.uint8).view(-1, 1, 1, 1)
    data = image_data(
        train=Examples(images, targets), test=Examples(images[:1], targets[:1]), classes=("a", "b"), limit=2
    )
    assert data.train.inputs.flatten().tolist() == [0, 1, 2, 4]
    assert data.train.targets.tolist() == [0, 1, 0, 1]


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    data = digits()
    assert (len(data.train), len(data.test or []), data.input_shape, data.num_outputs) == (1438, 359, (1, 8, 8), 10)
    assert data.test is not None
    ours = torch.cat([data.train.inputs, data.test.inputs]).flatten(1).numpy().astype(np.int64)
    labels = torch.cat([data.train.targets, data.test.targets]).numpy()
    bunch = load_digits()
    expected = sorted(map(tuple, np.column_stack([bunch.data, bunch.target]).astype(np.int64).tolist()))
    assert sorted(map(tuple, np.column_stack([ours, labels]).tolist())) == expected


def test_gaussian_targets_are_a_linear_map_of_the_inputs() -> None:
    data = gaussian(seed=1)
    inputs, targets = data.train.inputs.numpy(), data.train.targets.numpy()
    assert inputs.shape == targets.shape == (1000, 10)
    matrix, *_ = np.linalg.lstsq(inputs, targets, rcond=None)
    np.testing.assert_allclose(inputs @ matrix, targets, atol=1e-10)
    assert abs(inputs.std() - 1) < 0.05
    assert 0.7 < matrix.std() < 1.3
    assert torch.equal(gaussian(seed=1).train.inputs, data.train.inputs)
    assert not torch.equal(gaussian(seed=2).train.inputs, data.train.inputs)


def test_an_unknown_data_set_gets_near_matches() -> None:
    with pytest.raises(SelectionError, match=r"'cifar10'.*images:PATH"):
        load_data(recipe("digits-mlp", data="cifar-10"))
