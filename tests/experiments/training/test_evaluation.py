"""Evaluations, against one example at a time and plain formulas; and that they change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ics.errors import UsageError
from ics.experiments import Experiment, accuracy, evaluate, prepare, recipe
from ics.experiments.data.examples import Data, Examples
from ics.experiments.training.evaluation import NUM_TRAIN_EXAMPLES, batch_statistics


def trained(**changes: object) -> Experiment:
    settings = {"steps": 6, "batch_size": 16, "hidden": (8, 8), "limit": 8, "dtype": "float64"}
    experiment = prepare(recipe("digits-mlp", **{**settings, **changes}))
    for batch in experiment.batches():
        experiment.optimizer.zero_grad()
        experiment.loss_fn(experiment.model, batch).backward()
        experiment.optimizer.step()
    return experiment


def one_at_a_time(model: nn.Module, data: Data, examples: Examples) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of single examples in eval mode."""
    model.eval()
    losses, hits = [], []
    for number, target in enumerate(examples.targets.tolist()):
        logits = model(data.batch(examples, slice(number, number + 1))[0]).detach().numpy()[0]
        losses.append(np.log(np.exp(logits).sum()) - logits[target])
        hits.append(logits.argmax() == target)
    model.train()
    return float(np.mean(losses)), float(np.mean(hits))


@pytest.mark.parametrize("changes", [{"norm": "batch"}, {"norm": "none", "dropout": 0.5}, {"norm": "layer"}])
def test_loss_and_accuracy_are_those_of_eval_mode(changes: dict[str, object]) -> None:
    experiment = trained(**changes)
    model, data = experiment.model, experiment.data
    assert data.test is not None
    got = {name: value.item() for name, value in experiment.evaluate(0).items()}
    for split, examples in (("test", data.test), ("train", data.train)):
        loss, share = one_at_a_time(model, data, examples)
        assert got[f"{split}_loss"] == pytest.approx(loss, rel=1e-12)
        assert got[f"{split}_accuracy"] == pytest.approx(share, rel=1e-6)
    assert ("test_loss_batch_statistics" in got) == (changes["norm"] == "batch")
    assert accuracy(model, data).item() == pytest.approx(got["test_accuracy"])


def test_batch_statistics_are_those_of_mixed_batches_of_about_the_trainings_size() -> None:
    experiment = trained(norm="batch", limit=None)
    model, data = experiment.model, experiment.data
    assert data.test is not None
    got = evaluate(model, data, loss="cross_entropy", batch_size=100)
    number, losses, hits = len(data.test), [], []
    num_batches = round(number / 100)
    assert num_batches > 2
    for first in range(num_batches):
        inputs, targets = data.batch(data.test, torch.arange(first, number, num_batches))
        values = inputs.flatten(1)
        for layer in (1, 2):
            values = model.get_submodule(f"linear{layer}")(values)
            norm = model.get_submodule(f"norm{layer}")
            mean, variance = values.mean(dim=0), values.var(dim=0, correction=0)
            values = ((values - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias).relu()
        log_probabilities = model.output(values).log_softmax(dim=1)
        losses += (-log_probabilities[torch.arange(len(targets)), targets]).tolist()
        hits += (log_probabilities.argmax(dim=1) == targets).tolist()
    assert len(losses) == number
    assert got["test_loss_batch_statistics"].item() == pytest.approx(np.mean(losses), rel=1e-10)
    assert got["test_accuracy_batch_statistics"].item() == pytest.approx(np.mean(hits), rel=1e-6)
    assert got["test_loss_batch_statistics"].item() != pytest.approx(got["test_loss"].item(), rel=1e-3)


@pytest.mark.parametrize("norm", ["batch", "noisy-batch", "population", "l1"])
def test_evaluating_changes_nothing(norm: str) -> None:
    experiment = trained(norm=norm, dropout=0.2)
    model = experiment.model
    model.get_submodule("activation1").eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    first, second = experiment.evaluate(0), experiment.evaluate(0)
    assert {name: value.item() for name, value in first.items()} == {
        name: value.item() for name, value in second.items()
    }
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_it_is_due_every_so_many_steps_and_at_the_last() -> None:
    experiment = trained(evaluate_every=2)
    assert [bool(experiment.evaluate(step)) for step in range(6)] == [True, False, True, False, True, True]
    assert prepare(recipe("digits-mlp", steps=3, evaluate_every=0)).evaluate(0) == {}


def test_training_examples_are_spread_over_all_and_always_the_same() -> None:
    """Examples sorted by class: the first 2000 would be of one class."""
    number = 3 * NUM_TRAIN_EXAMPLES + 1
    inputs, targets = torch.arange(number, dtype=torch.float64)[:, None], torch.zeros(number, 1, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    data = Data(Examples(inputs, targets), None, (), 1, 0 * one, one, torch.float64)
    got = evaluate(nn.Identity(), data, loss="sum_squared_error", batch_size=None)
    stride = -(-number // NUM_TRAIN_EXAMPLES)
    expected = (np.arange(0, number, stride, dtype=np.float64) ** 2).sum()
    assert got.keys() == {"train_loss"}
    assert got["train_loss"].item() == pytest.approx(expected, rel=1e-12)


def test_averages_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), batch_statistics(model):
        assert [module.training for module in model] == [False, True]
        model(torch.randn(5, 2))
        raise RuntimeError("stop")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_accuracy_needs_classes() -> None:
    experiment = prepare(recipe("deep-linear"))
    with pytest.raises(UsageError, match="expects test examples with classes"):
        accuracy(experiment.model, experiment.data)
