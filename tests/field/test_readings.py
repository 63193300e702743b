"""One batch or micro-batches: the guess is held against the gradient that training used, and named when it fails."""

from __future__ import annotations

import warnings

import pytest
import torch

import ics
from ics.errors import MeasurementWarning, UsageError
from tests.field.steps import PlainLoss, last_row, make_net, make_pairs, pair_loss, recorded, shift_and_floor, weights


def two_views(model, batch):
    """Default-collated [[x1, x2], [y1, y2]]."""
    (x1, x2), (y1, y2) = batch
    return pair_loss(model, torch.cat([x1, x2]), torch.cat([y1, y2]))


def two_dicts(model, batch):
    """A batch of [inputs, targets], each a dict."""
    inputs, targets = batch
    return pair_loss(model, inputs["x"], targets["y"])


def detection(model, batch):
    """[images, targets], a list of tensors and a list of dicts."""
    images, targets = batch
    return pair_loss(model, torch.stack(list(images)), torch.stack([each["y"] for each in targets]))


def tolerant(model, batch):
    """A loss that takes either reading without an error: the first member's x, whatever else is there."""
    if isinstance(batch, dict):
        return pair_loss(model, batch["x"], batch["y"])
    return pair_loss(model, torch.cat([each["x"] for each in batch]), torch.cat([each["y"] for each in batch]))


def lone_samples(model, batch):
    """Inputs of a regression to 0, which may be a list of micro-batches that are tensors."""
    return model(batch).square().mean()


X, Y = make_pairs(1)[0]
ONE_BATCH = {
    "two_views": (two_views, [[X[:3], X[3:]], [Y[:3], Y[3:]]]),
    "two_dicts": (two_dicts, [{"x": X}, {"y": Y}]),
    "detection": (detection, [list(X), [{"y": each} for each in Y]]),
    "tolerant": (tolerant, [{"x": X[:2], "y": Y[:2]}, {"x": X[2:], "y": Y[2:]}]),
}


@pytest.mark.parametrize("name", ONE_BATCH)
def test_one_batch_that_looks_like_micro_batches(name, tmp_path):
    loss_fn, batch = ONE_BATCH[name]
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    here = PlainLoss(model, X, Y)
    run = recorded(
        tmp_path / "run", model, loss_fn, [batch, batch], optimizer, strict=True,
        instruments={"gradient_shift": 1, "drift": 1, "gradients": 1},
    )  # fmt: skip
    first = make_net()
    stepped = torch.optim.SGD(first.parameters(), 0.1)
    pair_loss(first, X, Y).backward()
    stepped.step()
    shift, _ = shift_and_floor(here, weights(first))
    assert last_row(run, step=0)["shift_l2"] == pytest.approx(shift, rel=1e-10)
    assert last_row(run)["floor_l2"] == pytest.approx(0, abs=1e-12)  # the batch before is the same one
    assert "is equal to" in run.info["objective"]
    assert run.info["batch"].startswith("taken for one batch")


def test_micro_batches_that_look_like_one_batch(tmp_path):
    """A list of tensors, each a micro-batch."""
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    parts = [X[:3], X[3:]]
    here = PlainLoss(model, X, torch.zeros_like(Y))  # half of it: each micro-batch's mean is over half of the samples

    def block(batch):
        optimizer.zero_grad()
        for part in batch:
            lone_samples(model, part).backward()
        optimizer.step()

    run = recorded(tmp_path / "run", model, lone_samples, [parts], optimizer, block=block, strict=True)
    shift, _ = shift_and_floor(here, weights(model))
    assert last_row(run)["shift_l2"] == pytest.approx(2 * shift, rel=1e-10)
    assert run.info["batch"].startswith("taken for 2 micro-batches")


def test_micro_batches_stay_what_they_are(tmp_path):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    parts = [(X[:3], Y[:3]), (X[3:], Y[3:])]

    def loss_fn(model, batch):
        return pair_loss(model, *batch)

    def block(batch):
        optimizer.zero_grad()
        for part in batch:
            (loss_fn(model, part) / 2).backward()
        optimizer.step()

    run = recorded(tmp_path / "run", model, loss_fn, [parts], optimizer, block=block, strict=True)
    assert "(training's is 0.5 times it)" in run.info["objective"]
    assert run.info["batch"].startswith("taken for 2 micro-batches")


def test_neither_reading_can_be_evaluated(tmp_path):
    """The sentence says what the list was taken for and what to type; the training goes on."""
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def loss_fn(model, batch):
        return pair_loss(model, batch["x"], batch["y"])

    def block(batch):
        optimizer.zero_grad()
        pair_loss(model, X, Y).backward()
        optimizer.step()

    with pytest.warns(MeasurementWarning, match="taken for 2 micro-batches; type micro_batches=False"):
        recorded(tmp_path / "run", model, loss_fn, [[(X,), (Y,)]], optimizer, block=block)


def test_neither_reading_has_the_gradient_of_training(tmp_path):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def block(batch):
        optimizer.zero_grad()
        (model(X) ** 4).mean().backward()
        optimizer.step()

    with (
        pytest.warns(MeasurementWarning, match="another loss is measured"),
        pytest.warns(MeasurementWarning, match="taken for 2 micro-batches; type micro_batches=False"),
    ):
        recorded(tmp_path / "run", model, tolerant, [ONE_BATCH["tolerant"][1]], optimizer, block=block)


def test_what_the_user_says_is_not_tried(tmp_path):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss_fn, batch = ONE_BATCH["two_views"]
    with (
        warnings.catch_warnings(),
        ics.Recorder(model, loss_fn, to=tmp_path / "run", optimizer=optimizer, instruments=["gradient_shift"]) as one,
    ):
        warnings.simplefilter("error")
        with one.step(batch, micro_batches=False):
            loss_fn(model, batch).backward()
            optimizer.step()
    assert "batch" not in ics.open_run(tmp_path / "run").info


@pytest.mark.parametrize("name", ["two_views", "two_dicts", "detection"])
def test_one_shot_functions_try_the_other_reading_too(name):
    loss_fn, batch = ONE_BATCH[name]
    model = make_net()
    here = PlainLoss(model, X, Y)
    after = {key: value.detach() - 0.1 for key, value in model.named_parameters()}
    moved = [[after["0.weight"], after["0.bias"]], [after["2.weight"], after["2.bias"]]]
    shift, _ = shift_and_floor(here, moved)
    frame = ics.gradient_shift(model, loss_fn, batch, after)
    row = frame[(frame["layer"] == "2") & (frame["parameters"] == "all")].iloc[0]
    assert row["shift_l2"] == pytest.approx(shift, rel=1e-10)
    assert len(ics.sharpness(model, loss_fn, batch)) == 1


def test_one_shot_functions_name_the_guess_where_neither_fits():
    with pytest.raises(UsageError, match="taken for 2 micro-batches; type micro_batches=False"):
        ics.sharpness(make_net(), lambda model, batch: model(batch["x"]).mean(), [(X,), (Y,)])
