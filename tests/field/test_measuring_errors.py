"""What goes wrong while a step is measured is warned about once, noted, and ends that part alone."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import ics
from ics.errors import LossError, MeasurementWarning, SelectionError, UsageError

PASSES = ("activations", "gradients", "normalization")
LANDSCAPE = ("gradient_shift", "gradient_line")


def mlp():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))


def loss_fn(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def batches(num, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return [tuple(torch.randn(6, size, generator=generator, dtype=dtype) for size in (4, 2)) for _ in range(num)]


def train(model, tmp_path=None, instruments=(), *, num=4, loss=loss_fn, given=None, each=None, **options):
    """Train and return the end state, what was warned of, and the run; measured where there is a folder for it."""
    dtype = next(value.dtype for value in model.parameters() if not value.is_complex())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    every = instruments if isinstance(instruments, dict) else dict.fromkeys(instruments, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recorder = None
        if tmp_path is not None:
            recorder = ics.Recorder(
                model, given or loss, to=tmp_path, optimizer=optimizer, instruments=every, **options
            )
        for number, batch in enumerate(batches(num, dtype)):
            if each is not None:
                each(number, optimizer)
            if recorder is None:
                one_step(model, optimizer, loss, batch)
            else:
                with recorder.step(batch) as step:
                    step.log(loss=one_step(model, optimizer, loss, batch))
        if recorder is not None:
            recorder.close()
    told = [str(each.message) for each in caught if issubclass(each.category, MeasurementWarning)]
    run = None if tmp_path is None else ics.open_run(tmp_path)
    assert run is None or (run.state == "completed" and len(run.table("steps")) == num)
    assert run is None or {text for text in told if " at step " in text} <= set(run.info.get("notes", []))
    return model.state_dict(), told, run


def one_step(model, optimizer, loss, batch):
    optimizer.zero_grad()
    value = loss(model, batch)
    value.backward()
    optimizer.step()
    return value


def same(left, right):
    return all(torch.equal(left[name], right[name]) or left[name].isnan().any() for name in left)


def seeded(make):
    torch.manual_seed(0)
    return make()


class Checkpointed(nn.Module):
    """Reentrant checkpointing, as older trainers of language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Linear(4, 5), nn.Linear(5, 2)
        self.b = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU())

    def forward(self, x):
        return self.h(checkpoint(self.b, torch.tanh(self.a(x)), use_reentrant=True))


def used_gradients(model, batch):
    """The gradients that `backward` leaves, at the weights that the model has, on a copy of it."""
    loss_fn(model, batch).backward()
    return {name: value.grad.double().norm().item() for name, value in model.named_parameters()}


@pytest.mark.parametrize("instruments", [PASSES, ("gradients",), ("activations",), ("gradients", "normalization")])
def test_reentrant_checkpointing_is_measured_by_the_probes_alone(instruments, tmp_path):
    """A recorder that was given a loss finds the layers by a pass without a backward one, which torch refuses here."""
    plain, _, _ = train(seeded(Checkpointed))
    state, told, run = train(seeded(Checkpointed), tmp_path, instruments)
    assert same(plain, state)
    assert told == []
    if "gradients" in instruments:
        rows = run.table("gradients").query("step == 0 and kind == 'parameter'").set_index("of")["gradient_norm"]
        right = used_gradients(seeded(Checkpointed), batches(1)[0])
        assert rows.to_dict() == pytest.approx(right, rel=1e-5, abs=1e-8)
    else:
        assert {"a", "b.0", "h"} <= set(run.table("activations")["layer"])


def test_reentrant_checkpointing_ends_the_landscape_and_nothing_else(tmp_path):
    plain, _, _ = train(seeded(Checkpointed))
    state, told, run = train(seeded(Checkpointed), tmp_path, (*PASSES, *LANDSCAPE))
    assert same(plain, state)
    assert sum("gradient_shift switched off" in text and "use_reentrant=False" in text for text in told) == 1
    assert set(run.table("gradients")["step"]) == {0, 1, 2, 3}


@pytest.mark.parametrize("rate", [math.nan, math.inf])
def test_a_learning_rate_that_is_not_finite_leaves_all_that_does_not_need_it(rate, tmp_path):
    """A schedule divided 0 by 0 at step 2."""

    def each(number, optimizer):
        optimizer.param_groups[0]["lr"] = rate if number == 2 else 0.1

    state, told, run = train(seeded(mlp), tmp_path, (*PASSES, *LANDSCAPE), each=each)
    assert sum("the learning rate is" in text and "step 2" in text for text in told) == 1
    line = run.table("gradient_line")
    assert line.groupby("step")["eta"].count().to_dict() == {0: 9, 1: 9, 2: 1, 3: 9}
    assert set(run.table("gradient_shift")["step"]) == {0, 1, 2, 3}
    plain, _, _ = train(seeded(mlp), each=each)
    assert all(torch.equal(plain[name].isnan(), state[name].isnan()) for name in plain)


def test_a_loss_that_is_a_mistake_is_told_at_the_first_step_and_later_only_warned_about(tmp_path):
    """The loss handed over gives a number per sample."""

    def per_sample(model, batch):
        return (model(batch[0]) - batch[1]).square().sum(1)

    with pytest.raises(LossError, match="one number"):
        train(seeded(mlp), tmp_path / "a", {"gradient_line": 1}, given=per_sample)
    _, told, run = train(
        seeded(mlp), tmp_path / "b", {"gradient_line": ics.at([2, 3]), "activations": 1}, given=per_sample
    )
    assert sum("gradient_line switched off at step 2" in text for text in told) == 1
    assert set(run.table("activations")["step"]) == {0, 1, 2, 3}
    with pytest.raises(LossError):
        train(seeded(mlp), tmp_path / "c", {"gradient_line": ics.at([2])}, given=per_sample, strict=True)


def test_a_batch_forgotten_after_the_first_step_is_warned_about_once(tmp_path):
    model = seeded(mlp)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    instruments = {"gradient_line": 1, "activations": 1}
    with pytest.warns(MeasurementWarning, match="expects the batch, got none; .* left out") as caught:
        with ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments=instruments) as recorder:
            for number, batch in enumerate(batches(5)):
                with recorder.step(batch if number in (0, 4) else None):
                    one_step(model, optimizer, loss_fn, batch)
    assert len(caught) == 1
    run = ics.open_run(tmp_path)
    assert set(run.table("gradient_line")["step"]) == {0, 4}
    assert set(run.table("activations")["step"]) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": "hed*"}, SelectionError, "no layer is named 'hed"),
        ({"layers": nn.Conv2d}, SelectionError, "is a Conv2d"),
        ({"layers": 3}, UsageError, "a selection of layers is expected"),
        ({"options": {"gradient_line": {"etas": [0.1, math.nan]}}}, UsageError, "finite"),
        ({"options": {"gradient_line": {"directions": ["updat"]}}}, SelectionError, "did you mean 'update'"),
        ({"options": {"gradient_shift": {"chunk": 0}}}, UsageError, "chunk"),
    ],
)
def test_a_mistake_of_set_up_is_told_when_the_recorder_is_made(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        ics.Recorder(mlp(), loss_fn, to=tmp_path / "run", instruments=LANDSCAPE, **options)
    assert not (tmp_path / "run").exists()


def test_layers_that_are_there_and_never_run_are_warned_about(tmp_path):
    """A spare head is selected, and no pass calls it."""

    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.spare = mlp(), nn.Linear(5, 2)

        def forward(self, x):
            return self.body(x)

    plain, _, _ = train(seeded(Spare))
    state, told, run = train(seeded(Spare), tmp_path, ("gradient_shift", "gradients"), layers="spare")
    assert same(plain, state)
    assert sum("gradient_shift switched off" in text and "spare" in text for text in told) == 1
    assert set(run.table("gradients")["step"]) == {0, 1, 2, 3}


@dataclass(frozen=True, eq=False)
class Failing(ics.Instrument):
    """An instrument of the user's that a mistake of its own is in."""

    where: str = "measure"
    name = "failing"
    table = ics.Table(
        "failing",
        row="step",
        keys=(ics.schema.STEP,),
        values=(ics.Column("value", "float64", "a value", "none"),),
    )

    def measure(self, step):
        """Raise what a check of arguments raises."""
        raise UsageError("expected another shape")


def test_a_usage_error_inside_a_measurement_ends_that_instrument_alone(tmp_path):
    plain, _, _ = train(seeded(mlp))
    state, told, run = train(seeded(mlp), tmp_path, {Failing(): 1, "activations": 1})
    assert same(plain, state)
    assert told == ["failing switched off at step 0: UsageError: expected another shape"]
    assert set(run.table("activations")["step"]) == {0, 1, 2, 3}
    with pytest.raises(UsageError, match="another shape"):
        train(seeded(mlp), tmp_path / "strict", {Failing(): 1}, strict=True)
