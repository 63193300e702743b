"""One layer per step, against the definition with numpy and a plain optimizer beside it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ics.errors import UsageError
from ics.experiments.nets.layers import layers_in_order
from ics.experiments.training.one_layer import Mode, OneLayerPerStep

LAYERS = {
    0: ("0.weight", "0.bias", "1.weight", "1.bias"),  # linear and its BatchNorm
    1: ("3.weight", "3.bias"),
    2: ("5.weight", "5.bias"),
}
WEIGHTS = ("0.weight", "1.weight", "3.weight", "5.weight")


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
    return nn.Sequential(*layers).double()


def values_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}


def gradients_for(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        name: torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for name, parameter in net().named_parameters()
    }


def give(model: nn.Module, gradients: dict[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()


def crossing(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.sign(before) * np.sign(after) == -1


def expected_step(
    before: dict[str, np.ndarray], proposed: dict[str, np.ndarray], steps_unchosen: dict[int, int], mode: Mode
) -> tuple[dict[str, np.ndarray], int, dict[int, int]]:
    """What the definition makes of a proposed step, the layer that it chooses, and the counts."""
    counts = {
        layer: sum(int(crossing(before[name], proposed[name]).sum()) for name in names if name in WEIGHTS)
        for layer, names in LAYERS.items()
    }
    chosen = max(LAYERS, key=lambda layer: (counts[layer], steps_unchosen[layer]))
    after = dict(proposed)
    for layer, names in LAYERS.items():
        for name in names:
            if layer == chosen:
                continue
            if mode == "update":
                after[name] = before[name]
            elif name in WEIGHTS:
                after[name] = np.where(crossing(before[name], proposed[name]), before[name], proposed[name])
    return after, chosen, counts


@pytest.mark.parametrize("mode", ["update", "sign"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (torch.optim.Adam, {"lr": 0.05, "weight_decay": 0.1})],
)
def test_every_step_is_what_its_definition_says(
    mode: Mode, kind: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    model = net()
    optimizer = kind(model.parameters(), **settings)
    alone = OneLayerPerStep(optimizer, layers=layers_in_order(model, _INPUTS), mode=mode)
    steps_unchosen, seen = {0: 3, 1: 2, 2: 1}, set()
    for step in range(12):
        plain = copy.deepcopy(model)  # makes the same step without the restriction
        beside = kind(plain.parameters(), **settings)
        beside.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        before = values_of(model)
        for each, stepping in ((plain, beside), (model, optimizer)):
            give(each, gradients_for(step))
            stepping.step()
        after, chosen, counts = expected_step(before, values_of(plain), steps_unchosen, mode)
        steps_unchosen = {layer: 0 if layer == chosen else number + 1 for layer, number in steps_unchosen.items()}
        seen.add(chosen)
        got = values_of(model)
        assert [name for name in after if not np.array_equal(after[name], got[name])] == []
        told = {name: value.item() for name, value in alone.columns().items()}
        assert told == {
            "chosen_layer": chosen,
            "sign_changes_proposed": sum(counts.values()),
            "sign_changes_made": counts[chosen],
        }
        for name in optimizer.state_dict()["state"][0]:  # momentum and moments are those of the proposed steps
            ours, theirs = (each.state_dict()["state"][0][name] for each in (optimizer, beside))
            assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))
    assert len(seen) > 1


_INPUTS = torch.zeros(2, 4, dtype=torch.float64)


def small(weights: list[float], mode: Mode) -> tuple[list[nn.Linear], torch.optim.Optimizer, OneLayerPerStep]:
    """Layers of one weight each."""
    layers = [nn.Linear(1, 1, bias=False).double() for _ in weights]
    for layer, value in zip(layers, weights, strict=True):
        layer.weight.data.fill_(value)
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    found = layers_in_order(model, torch.zeros(1, 1, dtype=torch.float64))
    return layers, optimizer, OneLayerPerStep(optimizer, layers=found, mode=mode)


def move(layers: list[nn.Linear], optimizer: torch.optim.Optimizer, by: list[float]) -> list[float]:
    for layer, change in zip(layers, by, strict=True):
        layer.weight.grad = torch.full_like(layer.weight, -change)
    optimizer.step()
    return [layer.weight.item() for layer in layers]


def test_where_no_sign_would_change_layers_take_turns() -> None:
    layers, optimizer, alone = small([1.0, 1.0, 1.0], "update")
    chosen = []
    for _ in range(5):
        move(layers, optimizer, [0.25] * 3)
        chosen.append(alone.columns()["chosen_layer"].item())
    assert chosen == [0, 1, 2, 0, 1]
    assert [layer.weight.item() for layer in layers] == [1.5, 1.5, 1.25]


def test_a_held_component_stays_where_it_is_and_what_changes_no_sign_moves() -> None:
    layers, optimizer, alone = small([1.0, 1.0, 1.0], "sign")
    assert move(layers, optimizer, [-2.0, -3.0, -0.5]) == [-1.0, 1.0, 0.5]
    assert {name: value.item() for name, value in alone.columns().items()} == {
        "chosen_layer": 0,
        "sign_changes_proposed": 2,
        "sign_changes_made": 1,
    }
    # The one that was held is next among equals.
    assert move(layers, optimizer, [2.0, -3.0, 0.5]) == [-1.0, -2.0, 1.0]


def test_zero_has_no_sign_to_change_and_tiny_values_have() -> None:
    layers, optimizer, alone = small([1.0, 0.0, 1e-200], "sign")
    assert move(layers, optimizer, [-1.0, -1.0, -3e-200]) == [0.0, -1.0, pytest.approx(-2e-200, rel=1e-12)]
    assert alone.columns()["sign_changes_proposed"].item() == 1  # a product of the two values would underflow


def test_a_diverged_step_chooses_all_the_same() -> None:
    layers, optimizer, alone = small([1.0, 1.0], "update")
    assert move(layers, optimizer, [float("nan"), -3.0]) == [1.0, -2.0]
    assert alone.columns()["chosen_layer"].item() == 1


def test_before_a_step_there_is_nothing_to_tell() -> None:
    _, _, alone = small([1.0, 1.0], "update")
    with pytest.raises(UsageError, match=r"type optimizer.step\(\) first"):
        alone.columns()
