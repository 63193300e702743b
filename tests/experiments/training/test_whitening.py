"""Standardising by weights: what it makes of a net, against numpy, and what it says of each step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ics.errors import UsageError
from ics.experiments import Experiment, prepare, recipe
from ics.experiments.nets.layers import hidden_layers, layers_in_order
from ics.experiments.training.losses import cross_entropy
from ics.experiments.training.whitening import Whitening

Weights = dict[str, np.ndarray]


def weights_of(model: nn.Module) -> Weights:
    return {name: parameter.detach().double().numpy().copy() for name, parameter in model.named_parameters()}


def standardised(weights: Weights, inputs: np.ndarray, *, hidden: tuple[str, ...]) -> Weights:
    """The definition for an MLP with tanh, layer by layer."""
    found, values = dict(weights), inputs
    for name in hidden:
        outputs = values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        mean, std = outputs.mean(axis=0), outputs.std(axis=0)
        found[f"{name}.weight"] = weights[f"{name}.weight"] / std[:, None]
        found[f"{name}.bias"] = (weights[f"{name}.bias"] - mean) / std
        values = np.tanh((outputs - mean) / std)
    return found


def loss_of(weights: Weights, inputs: np.ndarray, targets: np.ndarray, *, layers: tuple[str, ...]) -> float:
    values = inputs
    for name in layers[:-1]:
        values = np.tanh(values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])
    logits = values @ weights[f"{layers[-1]}.weight"].T + weights[f"{layers[-1]}.bias"]
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(targets)), targets]))


def flat(weights: Weights, hidden: tuple[str, ...]) -> np.ndarray:
    return np.concatenate([weights[f"{name}.{kind}"].ravel() for name in hidden for kind in ("weight", "bias")])


def mlp(**changes: object) -> Experiment:
    settings = {"hidden": (8, 6), "activation": "tanh", "steps": 5, "batch_size": 32, "limit": 20, "dtype": "float64"}
    return prepare(recipe("digits-mlp", whiten_after_step=True, **{**settings, **changes}))


@pytest.mark.parametrize("optimizer", [{"momentum": 0.9}, {"optimizer": "adam", "learning_rate": 0.01}])
def test_every_step_is_what_its_definition_says(optimizer: dict[str, object]) -> None:
    experiment = mlp(**optimizer)
    model, hidden = experiment.model, ("linear1", "linear2")
    for batch in experiment.batches():
        inputs, targets = batch[0].flatten(1).numpy(), batch[1].numpy()
        before = weights_of(model)
        experiment.optimizer.zero_grad()
        experiment.loss_fn(model, batch).backward()
        experiment.optimizer.step()
        proposed = weights_of(model)
        told = {name: value.item() for name, value in experiment.after_step(batch).items()}

        after = standardised(proposed, inputs, hidden=hidden)
        floored = standardised(before, inputs, hidden=hidden)
        pairs = [(before, proposed), (proposed, after), (before, floored)]
        p, q, f = (flat(end, hidden) - flat(start, hidden) for start, end in pairs)
        layers = (*hidden, "output")
        assert {name: pytest.approx(value, rel=1e-9) for name, value in after.items()} == weights_of(model)
        assert told == pytest.approx(
            {
                "proposed_update_norm": np.linalg.norm(p),
                "undone_update_norm": np.linalg.norm(q),
                "applied_update_norm": np.linalg.norm(p + q),
                "undone_cosine": q @ p / np.linalg.norm(p) / np.linalg.norm(q),
                "undone_fraction": -(q @ p) / (p @ p),
                "floor_update_norm": np.linalg.norm(f),
                "floor_fraction": -(f @ p) / (p @ p),
                "proposed_loss": loss_of(proposed, inputs, targets, layers=layers),
                "applied_loss": loss_of(after, inputs, targets, layers=layers),
                "floor_loss": loss_of(floored, inputs, targets, layers=layers),
            },
            rel=1e-6,
            abs=1e-12,
        )


def test_training_starts_standardised_and_full_batches_have_no_floor() -> None:
    experiment = mlp(batch_size=None)
    batch = next(experiment.batches())
    outputs = experiment.model.linear1(batch[0].flatten(1)).detach().numpy()
    np.testing.assert_allclose([outputs.mean(axis=0), outputs.std(axis=0)], [[0.0] * 8, [1.0] * 8], atol=1e-12)
    for batch in experiment.batches():
        experiment.optimizer.zero_grad()
        experiment.loss_fn(experiment.model, batch).backward()
        experiment.optimizer.step()
        told = experiment.after_step(batch)
        assert told["floor_update_norm"].item() < 1e-12
        assert told["undone_update_norm"].item() > 1e-3


def test_a_bias_that_the_step_moved_is_taken_straight_back() -> None:
    """Ioffe & Szegedy 2015, sec. 2: the step b <- b + c is undone whole."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    batch = (torch.randn(50, 3, dtype=torch.float64), torch.zeros(50, dtype=torch.int64))
    optimizer = torch.optim.SGD([model[0].bias], lr=1.0)
    whitening = whitening_of(model, optimizer, batch[0])
    whitening.standardise(batch)
    model[0].bias.grad = torch.tensor([0.5, -2.0], dtype=torch.float64)
    optimizer.step()
    told = whitening(batch)
    assert told["undone_cosine"].item() == pytest.approx(-1, abs=1e-12)
    assert told["undone_fraction"].item() == pytest.approx(1, abs=1e-12)
    assert told["applied_update_norm"].item() < 1e-12
    assert told["applied_loss"].item() == pytest.approx(told["floor_loss"].item(), rel=1e-12)


def whitening_of(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor) -> Whitening:
    layers = hidden_layers(layers_in_order(model, inputs), needed_for="whiten_after_step")
    return Whitening(model, layers=layers, loss_fn=cross_entropy, optimizer=optimizer)


def test_convolutions_have_mean_0_and_variance_1_per_channel_whatever_overwrites_them() -> None:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 2, groups=1), nn.ReLU(inplace=True)
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(12, 3)).double()
    batch = (torch.randn(9, 2, 5, 5, dtype=torch.float64), torch.zeros(9, dtype=torch.int64))
    whitening_of(model, torch.optim.SGD(model.parameters(), lr=0.1), batch[0]).standardise(batch)
    first = model[0](batch[0])
    second = model[2](first.relu())
    for outputs in (first, second):
        rows = outputs.detach().numpy().swapaxes(0, 1).reshape(outputs.shape[1], -1)
        np.testing.assert_allclose(rows.mean(axis=1), 0, atol=1e-12)
        np.testing.assert_allclose(rows.std(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_unit_keeps_its_weights(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).to(dtype)
    inputs = torch.randn(40, 3, dtype=dtype)
    inputs[:, 0] = 0.7
    with torch.no_grad():
        model[0].weight[0] = torch.tensor([3.0, 0.0, 0.0])  # constant on this batch, up to rounding
    batch = (inputs, torch.zeros(40, dtype=torch.int64))
    whitening_of(model, torch.optim.SGD(model.parameters(), lr=0.1), inputs).standardise(batch)
    assert model[0].weight[0].tolist() == [3.0, 0.0, 0.0]
    outputs = model[0](inputs)
    assert outputs[:, 0].abs().max().item() < 1e-5
    assert outputs[:, 1].var(correction=0).item() == pytest.approx(1, rel=1e-5)


def test_nothing_else_of_the_net_changes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    batch = (torch.randn(20, 3), torch.zeros(20, dtype=torch.int64))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    whitening = whitening_of(model, optimizer, batch[0])
    optimizer.zero_grad()
    cross_entropy(model, batch).backward()
    optimizer.step()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    whitening(batch)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, kept[name])}
    assert changed == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def test_no_step_is_no_number() -> None:
    experiment = mlp(learning_rate=0.0)
    batch = next(experiment.batches())
    experiment.loss_fn(experiment.model, batch).backward()
    experiment.optimizer.step()
    told = experiment.after_step(batch)
    assert told["proposed_update_norm"].item() == 0
    assert told["undone_fraction"].isnan()


def test_mistakes_get_one_sentence() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2))
    with pytest.raises(UsageError, match="centres by the bias, and 0 has none; type bias=True"):
        whitening_of(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.zeros(2, 3))
    twice = nn.Linear(3, 3)
    model = nn.Sequential(twice, nn.ReLU(), twice, nn.Linear(3, 2))
    with pytest.raises(UsageError, match="0 runs 2 times a pass"):
        whitening_of(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.zeros(2, 3))
    with pytest.raises(UsageError, match=r"type optimizer.step\(\) first"):
        mlp().after_step(next(mlp().batches()))
