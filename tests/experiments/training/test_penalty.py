"""The penalty is the divergence of its formula, its gradient that of plain autograd, its floor 2 / m."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from torch import nn
from torch.func import functional_call

from ics.errors import UsageError
from ics.experiments import prepare, recipe
from ics.experiments.nets.layers import hidden_layers, layers_in_order
from ics.experiments.training.losses import cross_entropy
from ics.experiments.training.penalty import VARIANCE_FLOOR, PenalisedLoss, gaussian_divergence


def oracle(units: np.ndarray) -> float:
    """Mean over rows of KL(N(mu, v) || N(0, 1)) + skewness^2 / 12 + excess kurtosis^2 / 48."""
    divergences = []
    for values in units:
        centred = values - values.mean()
        variance = (centred**2).mean() + VARIANCE_FLOOR
        skewness = (centred**3).mean() / variance**1.5
        excess = (centred**4).mean() / variance**2 - 3
        of_normals = 0.5 * (values.mean() ** 2 + variance - 1 - math.log(variance))
        divergences.append(of_normals + skewness**2 / 12 + excess**2 / 48)
    return float(np.mean(divergences))


def net(kind: str) -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(1)
    if kind == "linear":
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
        inputs = torch.randn(7, 4, dtype=torch.float64)
    else:
        convolutions = nn.Conv2d(2, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 6, 2), nn.Tanh()
        model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(24, 3))
        inputs = torch.randn(7, 2, 5, 5, dtype=torch.float64)
    return model.double(), inputs


def by_hand(model: nn.Sequential, inputs: torch.Tensor) -> list[np.ndarray]:
    """Outputs of the hidden linear and convolutional layers as (units, values)."""
    found, values = [], inputs
    for module in model:
        values = module(values.clone())
        if isinstance(module, nn.Linear | nn.Conv2d):
            found.append(np.moveaxis(values.detach().numpy().copy(), 1, 0).reshape(values.shape[1], -1))
    return found[:-1]


def test_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    units = np.stack([rng.normal(0.3, 2, 50), rng.exponential(1, 50), rng.uniform(-1, 1, 50), np.full(50, 0.7)])
    assert gaussian_divergence(torch.from_numpy(units)).item() == pytest.approx(oracle(units), rel=1e-12)


def test_of_two_normals_is_their_kullback_leibler_divergence() -> None:
    quantiles = scipy_stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    got = gaussian_divergence(torch.from_numpy(0.5 + 2.0 * quantiles)[None])
    assert got.item() == pytest.approx(0.5 * (0.25 + 4 - 1 - math.log(4)), rel=1e-3)
    assert gaussian_divergence(torch.from_numpy(quantiles)[None]).item() < 1e-5


def test_a_sample_of_a_standard_normal_has_two_over_m() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4000, 500, generator=generator, dtype=torch.float64)
    assert gaussian_divergence(values).item() == pytest.approx(2 / 500, rel=0.05)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_loss_is_data_loss_and_penalty_of_every_hidden_layer(kind: str) -> None:
    model, inputs = net(kind)
    batch = (inputs, torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    expected = sum(oracle(units) for units in by_hand(model, inputs))
    hidden = hidden_layers(layers_in_order(model, inputs), needed_for="gaussian_penalty")
    loss_fn = PenalisedLoss(cross_entropy, layers=hidden, strength=0.3)
    terms = loss_fn.terms(model, batch)
    assert terms["gaussian_penalty"].item() == pytest.approx(0.3 * expected, rel=1e-10)
    assert terms["loss"].item() == pytest.approx(cross_entropy(model, batch).item(), rel=1e-14)
    assert loss_fn(model, batch).item() == (terms["loss"] + terms["gaussian_penalty"]).item()


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_its_gradient_is_that_of_central_differences(kind: str) -> None:
    model, inputs = net(kind)
    batch = (inputs, torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    hidden = hidden_layers(layers_in_order(model, inputs), needed_for="gaussian_penalty")
    loss_fn = PenalisedLoss(cross_entropy, layers=hidden, strength=0.3)
    loss_fn(model, batch).backward()
    values = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    direction = {name: torch.randn_like(value) for name, value in values.items()}

    def along(step: float) -> float:
        moved = {name: value + step * direction[name] for name, value in values.items()}
        for name, parameter in model.named_parameters():
            parameter.data.copy_(moved[name])
        return loss_fn(model, batch).item()

    derivative = sum(float((parameter.grad * direction[name]).sum()) for name, parameter in model.named_parameters())
    assert derivative == pytest.approx((along(1e-6) - along(-1e-6)) / 2e-6, rel=1e-6)


def test_passes_that_are_no_loss_are_not_penalised_and_an_error_leaves_nothing() -> None:
    model, inputs = net("linear")
    hidden = hidden_layers(layers_in_order(model, inputs), needed_for="gaussian_penalty")
    loss_fn = PenalisedLoss(cross_entropy, layers=hidden, strength=1.0)
    batch = (inputs, torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    expected = loss_fn(model, batch).item()
    model(inputs)
    with pytest.raises(IndexError):
        loss_fn(model, (inputs, torch.full((7,), 9)))
    assert loss_fn(model, batch).item() == expected
    again = {name: value.detach().clone() for name, value in model.named_parameters()}
    moved = {name: value * 2 for name, value in again.items()}
    with torch.no_grad():  # parameters put in from outside are those that are penalised
        double = loss_fn(lambda x: functional_call(model, moved, x), batch).item()
        for name, parameter in model.named_parameters():
            parameter.copy_(moved[name])
        assert loss_fn(model, batch).item() == pytest.approx(double, rel=1e-12)


def test_it_pulls_towards_a_gaussian_in_training() -> None:
    found = {}
    for strength in (0.0, 1.0):
        config = recipe("digits-mlp", steps=150, hidden=(32, 32), gaussian_penalty=strength, dtype="float64")
        experiment = prepare(config)
        for batch in experiment.batches():
            experiment.optimizer.zero_grad()
            experiment.loss_fn(experiment.model, batch).backward()
            experiment.optimizer.step()
        everything = experiment.data.batch(experiment.data.train, slice(None))[0]
        preactivation = experiment.model.linear1(everything.flatten(1)).detach().T
        found[strength] = oracle(preactivation.numpy())
    assert found[1.0] < 0.5 * found[0.0]


def test_a_net_without_hidden_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="gaussian_penalty changes hidden layers"):
        prepare(recipe("digits-mlp", hidden=(), gaussian_penalty=0.1))
