"""Optimizers by name: torch's own, with the settings they are given, or one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ics.errors import SelectionError, UsageError
from ics.experiments.training.optimizers import OPTIMIZERS, build_optimizer, canonical_optimizer

SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "weight_decay": 1e-3, "settings": {"nesterov": True}},
    "RMSprop": {"momentum": 0.5, "settings": {"alpha": 0.9, "centered": True}},
    "AdamW": {"weight_decay": 0.1, "settings": {"betas": [0.8, 0.99], "amsgrad": True}},
    "NAdam": {"settings": {"momentum_decay": 0.01}},
    "Rprop": {"settings": {"step_sizes": [1e-5, 1.0]}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_as_torchs_own(name: str) -> None:
    given = SETTINGS[name]
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2, dtype=torch.float64), nn.Linear(3, 2, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    further = {key: tuple(value) if isinstance(value, list) else value for key, value in given["settings"].items()}
    shared = {key: given[key] for key in ("momentum", "weight_decay") if key in given}
    if name != "Rprop":
        shared.setdefault("weight_decay", 0.0)
    optimizers = (
        build_optimizer(name, ours.parameters(), learning_rate=0.05, **given),
        getattr(torch.optim, {"sgd": "SGD"}.get(name, name))(theirs.parameters(), lr=0.05, **shared, **further),
    )
    inputs = torch.randn(5, 3, dtype=torch.float64)
    for _ in range(4):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert type(optimizers[0]) is type(optimizers[1])
    assert optimizers[0].defaults == optimizers[1].defaults


def test_weight_decay_is_what_was_asked_for_and_not_the_optimizers_own_default() -> None:
    assert torch.optim.AdamW([nn.Parameter(torch.zeros(1))]).defaults["weight_decay"] == 0.01
    made = build_optimizer("adamw", [nn.Parameter(torch.zeros(1))], learning_rate=0.1)
    assert made.defaults["weight_decay"] == 0


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"lbfgs", "sparseadam"}))
def test_every_optimizer_that_is_not_refused_can_be_made_and_steps(name: str) -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer(name, [weight], learning_rate=0.1)
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    assert not torch.equal(weight, torch.ones(2, 2))


def test_names_are_found_in_any_case() -> None:
    assert [canonical_optimizer(name) for name in ("SGD", "AdamW", "rmsprop")] == ["sgd", "adamw", "rmsprop"]


@pytest.mark.parametrize(
    ("name", "given", "error", "message"),
    [
        ("adm", {}, SelectionError, "no optimizer is named 'adm'; did you mean 'adam'"),
        ("LBFGS", {}, UsageError, "evaluates the loss several times within a step.*type optimizer='sgd'"),
        ("sparseadam", {}, UsageError, "sparse gradients"),
        ("adam", {"momentum": 0.9}, UsageError, r"momentum belongs to .*sgd, got 0.9 with adam; type momentum=0"),
        ("rprop", {"weight_decay": 0.1}, UsageError, "weight_decay belongs to .* got 0.1 with rprop"),
        ("adam", {"settings": {"beta": 0.9}}, SelectionError, "did you mean 'betas'"),
        ("adam", {"settings": {"lr": 0.9}}, UsageError, "lr has a setting of its own.*type learning_rate=..."),
        ("adam", {"settings": {"betas": [0.9, 2.0]}}, UsageError, "refuses its settings: .*beta"),
        ("adam", {"settings": {"betas": [0.9]}}, UsageError, "refuses its settings"),
        ("muon", {"parameters": [nn.Parameter(torch.zeros(3))]}, UsageError, "refuses its settings"),
    ],
)
def test_mistakes_get_one_sentence(name: str, given: dict[str, Any], error: type[Exception], message: str) -> None:
    parameters = given.pop("parameters", [nn.Parameter(torch.zeros(2, 2))])
    with pytest.raises(error, match=message) as caught:
        build_optimizer(name, parameters, learning_rate=0.1, **given)
    assert "\n" not in str(caught.value)
