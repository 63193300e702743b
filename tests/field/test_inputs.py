"""What a step replays is its inputs as they were before the block, whatever loop, loss and loader do to them."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import ics
from ics.errors import UsageError
from ics.landscape.copies import copied, same
from tests.field.steps import PlainLoss, last_row, make_net, make_pairs, pair_loss, recorded, shift_and_floor, weights


@dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any


class Slots:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y


class Pair(NamedTuple):
    x: Any
    y: Any


class Encoding(collections.UserDict):
    """As a tokenizer returns it: a mapping whose items are attributes too."""

    def __init__(self, x, y):
        super().__init__({"x": x, "y": y})

    def __getattr__(self, name):
        if name == "data":
            raise AttributeError(name)
        return self.data[name]


class Nested:
    def __init__(self, x, y):
        self.parts = {"x": [x], "y": (y,)}

    @property
    def x(self):
        return self.parts["x"][0]

    @property
    def y(self):
        return self.parts["y"][0]


class Arrays:
    def __init__(self, x, y):
        self.arrays = (x.numpy(), y.numpy())

    @property
    def x(self):
        return torch.from_numpy(self.arrays[0])

    @property
    def y(self):
        return torch.from_numpy(self.arrays[1])


KINDS = {each.__name__: each for each in (Frozen, Slots, Pair, Encoding, Nested, Arrays)}


def attribute_loss(model, batch):
    return pair_loss(model, batch.x, batch.y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [1, 2])
def test_a_loader_reuses_the_buffers_of_its_batches(kind, every, tmp_path):
    (x, y), (x2, y2), (x3, y3) = pairs = make_pairs(3)
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    buffers = x.clone(), y.clone()

    def loader():
        for new in pairs:
            for buffer, values in zip(buffers, new, strict=True):
                buffer.copy_(values)
            yield KINDS[kind](*buffers)

    ends = []

    def block(batch):
        optimizer.zero_grad()
        attribute_loss(model, batch).backward()
        ends.append(weights(model))
        optimizer.step()

    run = recorded(
        tmp_path / "run", model, attribute_loss, loader(), optimizer, block=block,
        instruments={"gradient_shift": ics.every(every)}, strict=True,
    )  # fmt: skip
    here = PlainLoss(model, x3, y3)
    here.at = ends[2]
    shift, floor = shift_and_floor(here, weights(model), second=PlainLoss(model, x2, y2))
    assert last_row(run)["floor_l2"] == pytest.approx(floor, rel=1e-10)
    assert last_row(run)["shift_l2"] == pytest.approx(shift, rel=1e-10)


def popping(model, batch):
    return pair_loss(model, batch["x"], batch.pop("y"))


def negating(model, batch):
    batch["x"].neg_()
    return pair_loss(model, -batch["x"], batch["y"])


def writing_data(model, batch):
    batch["x"].data.mul_(2)
    return pair_loss(model, batch["x"] / 2, batch["y"])


def clearing(model, batch):
    x, y = batch["x"], batch["y"]
    batch.clear()
    return pair_loss(model, x, y)


def shrinking(model, batch):
    """Of a list of samples, each is taken out."""
    samples = []
    while batch["samples"]:
        samples.append(batch["samples"].pop())
    x, y = (torch.stack(each) for each in zip(*samples, strict=True))
    return pair_loss(model, x, y)


def writing_numpy(model, batch):
    array = batch["x"].numpy()
    array *= 3
    return pair_loss(model, batch["x"] / 3, batch["y"])


@pytest.mark.parametrize("loss_fn", [popping, negating, writing_data, clearing, shrinking, writing_numpy])
def test_a_loss_that_changes_its_batch_is_replayed_on_what_it_was(loss_fn, tmp_path):
    ((x, y),) = make_pairs(1)
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    here = PlainLoss(model, x, y)
    batch = {"x": x, "y": y, "samples": list(zip(x.clone(), y.clone(), strict=True))}
    instruments = {"gradient_shift": 1, "gradient_line": 1, "curvature": 1, "drift": 1}
    run = recorded(tmp_path / "run", model, loss_fn, [batch], optimizer, instruments=instruments, strict=True)
    shift, _ = shift_and_floor(here, weights(model))
    assert last_row(run)["shift_l2"] == pytest.approx(shift, rel=1e-10)
    assert "equal" in run.info["objective"] or "proportional" in run.info["objective"]
    assert set(run.tables) == {"steps", *instruments}


def test_a_loop_that_changes_its_batch_after_the_pass(tmp_path):
    ((x, y),) = make_pairs(1)
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    here = PlainLoss(model, x, y)

    def block(batch):
        optimizer.zero_grad()
        pair_loss(model, *batch).backward()
        optimizer.step()
        batch[0].zero_()

    def loss_fn(model, batch):
        return pair_loss(model, *batch)

    run = recorded(tmp_path / "run", model, loss_fn, [(x, y)], optimizer, block=block, strict=True)
    shift, _ = shift_and_floor(here, weights(model))
    assert last_row(run)["shift_l2"] == pytest.approx(shift, rel=1e-10)


@pytest.mark.parametrize("wrapped", [iter, lambda parts: (each for each in parts), lambda parts: map(tuple, parts)])
def test_an_iterator_as_batch_gets_one_sentence(wrapped, tmp_path):
    pairs = make_pairs(2)
    model = make_net()

    def loss_fn(model, batch):
        return sum(pair_loss(model, x, y) for x, y in batch)

    with ics.Recorder(model, loss_fn, to=tmp_path / "run", instruments={"gradient_shift": 2}) as recorder:
        with pytest.raises(UsageError, match=r"expects a batch that can be read twice, got an iterator .*; type"):
            recorder.step(wrapped(pairs))
        with pytest.raises(UsageError, match="can be read twice"):
            recorder.step((wrapped(pairs), 3))


def test_an_iterator_that_nothing_replays_is_left_to_the_loop(tmp_path):
    pairs = make_pairs(2)
    model = make_net()
    stream = iter(pairs)

    def loss_fn(model, batch):
        return pair_loss(model, *next(batch))

    with ics.Recorder(
        model, loss_fn, to=tmp_path / "run", instruments={"activations": 1, "gradients": 1}, strict=True
    ) as recorder:
        with recorder.step(stream):
            loss_fn(model, stream).backward()
        with recorder.step(stream):  # the second of two: the recorder has taken none
            loss_fn(model, stream).backward()
    assert set(ics.open_run(tmp_path / "run").table("activations")["step"]) == {0, 1}


def test_copies_keep_strides_types_and_what_is_one_object():
    x = torch.arange(24.0).reshape(4, 6)[:, ::2]
    batch = {"a": x, "b": x, "c": [x.t(), np.arange(3)], "d": torch.ones(3).expand(2, 3), "e": (1, "s")}
    made = copied(batch)
    assert made["a"] is made["b"]
    assert made["a"] is not x
    assert made["a"].stride() == x.stride()
    assert made["c"][0].stride() == x.t().stride()
    assert made["e"] is batch["e"]
    assert same(batch, made)
    x[0, 0] = float("nan")
    assert not same(batch, made)
    assert same(batch, copied(batch))
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 1), torch.ones(2, 1)])
    assert isinstance(copied(packed), nn.utils.rnn.PackedSequence)
