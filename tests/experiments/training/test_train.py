"""Training with instruments on is training: the same parameters, bit by bit, and a run holding what was asked for."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ics
from ics.errors import UsageError
from ics.experiments import Experiment, RunConfig, accuracy, fit, prepare, recipe, train
from ics.experiments.training.evaluation import evaluating
from ics.experiments.training.experiment import check_fit
from ics.experiments.training.losses import LOSSES
from ics.experiments.training.machine import find_device

ALL = dict.fromkeys(("activations", "gradients", "normalization", "gradient_shift", "gradient_line"), "every(2)")


def tiny(**changes: object) -> RunConfig:
    settings = {"steps": 6, "batch_size": 16, "hidden": (8, 8), "instruments": ALL, "evaluate_every": 2, "limit": 8}
    return recipe("digits-mlp", **{**settings, **changes})


def train_plainly(experiment: Experiment) -> None:
    """The loop without a recorder."""
    for batch in experiment.batches():
        experiment.optimizer.zero_grad()
        experiment.loss_fn(experiment.model, batch).backward()
        experiment.optimizer.step()


def state(experiment: Experiment) -> dict[str, torch.Tensor]:
    tensors = dict(experiment.model.state_dict())
    for number, kept in experiment.optimizer.state_dict()["state"].items():
        tensors |= {f"{number}.{key}": value for key, value in kept.items() if isinstance(value, torch.Tensor)}
    return tensors


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "none"},
        {"norm": "batch", "momentum": 0.9, "weight_decay": 1e-3},
        {"norm": "batch", "optimizer": "adam"},
        {"norm": "batch", "dtype": "float64"},
    ],
)
def test_measured_training_ends_in_the_same_bits(tmp_path: Path, changes: dict[str, object]) -> None:
    config = tiny(**changes)
    plain, measured = prepare(config), prepare(config)
    train_plainly(plain)
    generator = torch.get_rng_state()
    measured = prepare(config)
    with ics.Recorder(
        measured.model,
        measured.loss_fn,
        to=tmp_path / "run",
        optimizer=measured.optimizer,
        instruments=config.schedules(),
        strict=True,
    ) as recorder:
        fit(measured, recorder)
    expected, got = state(plain), state(measured)
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_run_holds_what_was_asked_for(tmp_path: Path) -> None:
    config = tiny(norm="batch", layers=("linear*",), seed=5)
    calls: list[tuple[str, int, int]] = []
    path = train(config, to=tmp_path / "run", progress=lambda *call: calls.append(call))
    run = ics.open_run(path)
    assert run.state == "completed"
    assert RunConfig.from_dict(run.info["config"]) == config
    assert run.info["seed"] == 5
    steps = run.table("steps")
    assert steps["step"].tolist() == list(range(6))
    assert steps["loss"].notna().all()
    assert steps["test_accuracy"].notna().tolist() == [True, False, True, False, True, True]
    assert set(run.table("gradient_shift")["layer"]) == {"linear1", "linear2"}
    line = run.table("gradient_line", where={"direction": "gradient", "step": 2})
    assert sorted(set(line["eta"]) - {0.0}) == pytest.approx(config.etas())
    assert calls == [("training", step, 6) for step in range(1, 7)]


def test_an_existing_run_is_kept_unless_told(tmp_path: Path) -> None:
    config = tiny(steps=2, instruments={})
    train(config, to=tmp_path / "run")
    with pytest.raises(UsageError, match="overwrite"):
        train(config, to=tmp_path / "run")
    train(config.replace(steps=3), to=tmp_path / "run", overwrite=True)
    assert len(ics.open_run(tmp_path / "run").table("steps")) == 3


def test_full_batch_regression_is_trained_and_measured(tmp_path: Path) -> None:
    config = recipe("deep-linear", norm="batch", steps=3, instruments={"gradient_shift": "every(1)"})
    run = ics.open_run(train(config, to=tmp_path / "run"))
    losses = run.table("steps")["loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    first = run.table("gradient_shift", where={"layer_index": 0})
    assert (first["shift_l2"] == 0).all()


def test_learning_rate_zero_moves_nothing(tmp_path: Path) -> None:
    config = tiny(learning_rate=0.0, instruments={"gradient_shift": "every(1)"})
    shift = ics.open_run(train(config, to=tmp_path / "run")).table("gradient_shift")
    assert len(shift) > 0
    assert (shift["shift_l2"] == 0).all()


def test_accuracy_is_that_of_eval_mode_and_leaves_the_model_alone() -> None:
    experiment = prepare(tiny(norm="batch"))
    train_plainly(experiment)
    model, data = experiment.model, experiment.data
    model.norm1.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    got = accuracy(model, data)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    assert data.test is not None
    hits = [
        model(data.batch(data.test, slice(number, number + 1))[0]).argmax().item() == target
        for number, target in enumerate(data.test.targets.tolist())
    ]
    assert got.item() == pytest.approx(np.mean(hits))


def test_modes_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(1, 1).eval())

    def fail_in_eval_mode() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_in_eval_mode()
    assert [module.training for module in model.modules()] == [True, True, False]


def test_threads_are_set_for_the_training_only(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    config = tiny(steps=1, instruments={}, num_threads=before + 1)
    train(config, to=tmp_path / "run", progress=lambda *_: seen.append(torch.get_num_threads()))
    assert (seen, torch.get_num_threads()) == ([before + 1], before)


def test_preparing_twice_gives_equal_experiments_and_seeds_every_generator() -> None:
    first = prepare(tiny(seed=7))
    drawn = (random.random(), np.random.rand(), torch.rand(1).item())
    second = prepare(tiny(seed=7))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn
    assert all(torch.equal(a, b) for a, b in zip(state(first).values(), state(second).values(), strict=True))
    other = prepare(tiny(seed=8))
    assert not torch.equal(other.model.linear1.weight, first.model.linear1.weight)


def test_the_loss_is_the_data_loss_alone() -> None:
    experiment = prepare(tiny(weight_decay=0.5))
    (batch, *_) = experiment.batches()
    inputs, targets = batch
    log_probabilities = experiment.model(inputs).double().log_softmax(dim=1).detach().numpy()
    expected = -log_probabilities[np.arange(len(targets)), targets.numpy()].mean()
    assert experiment.loss_fn(experiment.model, batch).item() == pytest.approx(expected, rel=1e-5)
    assert experiment.optimizer.param_groups[0]["weight_decay"] == 0.5


def test_squared_error_is_a_sum_over_samples() -> None:
    model, inputs, targets = nn.Linear(2, 3), torch.randn(5, 2), torch.randn(5, 3)
    expected = ((model(inputs) - targets).detach().double().numpy() ** 2).sum()
    assert LOSSES["sum_squared_error"](model, (inputs, targets)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "sum_squared_error"}, "type loss='cross_entropy'"),
        ({"data": "gaussian"}, "type loss='sum_squared_error'"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"model": "vgg11"}, "at least 32"),
        ({"model": "torch.nn:Identity"}, "should return"),
        ({"batch_size": 5000, "limit": None}, "type batch_size=1438"),
        ({"data": "images:/absent"}, "nothing at /absent"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        train(tiny(**changes), to=tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_model_for_other_inputs_gets_one_sentence() -> None:
    experiment = prepare(tiny())
    with pytest.raises(UsageError, match=r"cannot take inputs of shape \(2, 1, 8, 8\)"):
        check_fit(experiment.config, experiment.data, nn.Conv2d(3, 4, 3))
    before = torch.get_rng_state()
    check_fit(experiment.config, experiment.data, experiment.model)
    assert torch.equal(torch.get_rng_state(), before)


def test_auto_is_a_device() -> None:
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
