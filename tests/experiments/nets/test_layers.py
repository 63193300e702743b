"""Layers in the order of execution, with the parameters that belong to them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ics.errors import UsageError
from ics.experiments import load_model
from ics.experiments.nets.layers import by_unit, hidden_layers, layers_in_order


class Residual(nn.Module):
    """The shortcut is declared last and runs first; the block runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.block = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout()
        self.shortcut = nn.Linear(3, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values = self.norm(self.shortcut(inputs))
        return self.head(self.dropout(values + self.block(torch.relu(self.block(values)))))


class Unused(nn.Module):
    """Holds a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


def test_order_is_that_of_execution_and_gamma_belongs_to_the_layer_in_front() -> None:
    layers = layers_in_order(Residual(), torch.zeros(2, 3))
    assert [layer.name for layer in layers] == ["shortcut", "block", "head"]
    assert list(layers[0].parameters) == ["shortcut.weight", "shortcut.bias", "norm.weight", "norm.bias"]
    assert [layer.num_calls for layer in layers] == [1, 2, 1]
    assert [layer.name for layer in hidden_layers(layers, needed_for="it")] == ["shortcut", "block"]


@pytest.mark.parametrize("model", ["mlp", "vgg11", "resnet18"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_every_parameter_is_of_one_layer(model: str, norm: str) -> None:
    net = load_model(model, norm=norm)
    layers = layers_in_order(net, torch.zeros(2, 3, 32, 32))
    owned = [name for layer in layers for name in layer.parameters]
    assert sorted(owned) == sorted(name for name, _ in net.named_parameters())


def test_a_shared_parameter_belongs_to_the_first_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    assert [list(layer.parameters) for layer in layers_in_order(model, torch.zeros(1, 3))] == [
        ["0.weight", "0.bias", "2.bias"]
    ]


def test_looking_changes_nothing() -> None:
    model = Residual()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    layers_in_order(model, torch.randn(2, 3, generator=torch.Generator()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(module.training and not module._forward_hooks for module in model.modules())


def test_a_parameter_that_no_called_module_holds_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"1\.unused\.weight belongs to no module that the forward pass calls"
    ) as caught:
        layers_in_order(nn.Sequential(nn.Linear(3, 3), Unused()), torch.zeros(1, 3))
    assert "\n" not in str(caught.value)


def test_units_are_rows() -> None:
    values = torch.arange(2 * 3 * 4.0).view(2, 3, 4)
    assert torch.equal(by_unit(nn.Conv1d(1, 3, 1), values)[1], torch.cat([values[0, 1], values[1, 1]]))
    assert torch.equal(by_unit(nn.Linear(1, 4), values)[1], values[..., 1].reshape(-1))
