"""Activation functions are found however they are called, each once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.probes.rows import activations, assert_row, probed

BY_FUNCTION: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("relu", F.relu),
    ("relu", lambda x: F.relu(x, inplace=True)),
    ("relu", lambda x: F.relu(input=x)),
    ("relu", torch.relu),
    ("relu", torch.relu_),
    ("relu", lambda x: x.relu()),
    ("relu", lambda x: x.relu_()),
    ("leaky_relu", F.leaky_relu),
    ("elu", lambda x: F.elu(x, inplace=True)),
    ("selu", torch.selu),
    ("celu", F.celu),
    ("gelu", lambda x: F.gelu(x, approximate="tanh")),
    ("silu", lambda x: F.silu(x, inplace=True)),
    ("mish", F.mish),
    ("hardswish", F.hardswish),
    ("softplus", F.softplus),
    ("relu6", F.relu6),
    ("hardtanh", F.hardtanh),
    ("hardsigmoid", F.hardsigmoid),
    ("sigmoid", torch.sigmoid),
    ("sigmoid", F.sigmoid),
    ("sigmoid", lambda x: x.sigmoid()),
    ("sigmoid", lambda x: x.sigmoid_()),
    ("sigmoid", torch.special.expit),
    ("tanh", torch.tanh),
    ("tanh", F.tanh),
    ("tanh", lambda x: x.tanh()),
    ("softsign", F.softsign),
]

BY_MODULE = [
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.LeakyReLU(0.2),
    nn.ELU(),
    nn.GELU(),
    nn.SiLU(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Hardtanh(-0.5, 0.5),
    nn.Softplus(),
    nn.Mish(),
    nn.Hardswish(),
    nn.PReLU().double(),
]


class Functional(nn.Module):
    """Linear, then a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4).double()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


@pytest.mark.parametrize(("name", "function"), BY_FUNCTION)
def test_functions(name: str, function: Callable[[Tensor], Tensor]) -> None:
    net = Functional(function)
    x = torch.randn(6, 3, dtype=torch.float64)
    rows = activations(probed(net, lambda: net(x)))
    assert list(rows) == [("layer", 0, "input"), ("layer", 0, "preactivation"), ("layer", 0, "activation")]
    assert rows["layer", 0, "activation"]["source"] == name
    assert_row(rows["layer", 0, "preactivation"], net.layer(x), axis=1)
    assert_row(rows["layer", 0, "activation"], net(x), axis=1)


@pytest.mark.parametrize("module", BY_MODULE, ids=lambda module: type(module).__name__)
def test_modules(module: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(3, 4), module).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    rows = activations(probed(net, lambda: net(x)))
    assert list(rows) == [("0", 0, "input"), ("0", 0, "preactivation"), ("0", 0, "activation")]
    assert rows["0", 0, "activation"]["source"] == type(module).__name__
    assert_row(rows["0", 0, "activation"], net(x), axis=1)


def test_softmax_dropout_and_losses_are_no_activations() -> None:
    net = Functional(lambda x: F.softmax(F.dropout(x), -1) + F.logsigmoid(x).mean() * 0)
    rows = activations(
        probed(
            net, lambda: F.binary_cross_entropy_with_logits(net(torch.ones(2, 3).double()), torch.ones(2, 4).double())
        )
    )
    assert [site for _, _, site in rows] == ["input", "preactivation", "activation"]
    assert rows["layer", 0, "activation"]["source"] == "logsigmoid"


def test_a_function_outside_any_module_is_none_of_the_models() -> None:
    net = nn.Linear(3, 4)
    rows = activations(probed(net, lambda: torch.sigmoid(net(torch.ones(2, 3)))))
    assert [site for _, _, site in rows] == ["input", "preactivation"]


def test_those_inside_library_modules() -> None:
    net = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=0.0, batch_first=True, activation="gelu").double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    rows = activations(probed(net, lambda: net(x)))
    assert [key for key in rows if key[2] == "activation"] == [("linear1", 0, "activation")]
    assert [key[0] for key in rows if key[2] == "scaled"] == ["norm1", "norm2"]  # they follow sums, not layers
    after_attention = F.layer_norm(x + net.self_attn(x, x, x)[0], (4,))
    assert_row(rows["linear1", 0, "activation"], F.gelu(net.linear1(after_attention)), axis=-1)


def test_an_activation_of_something_else_has_a_row_of_its_own() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.act = nn.Linear(3, 3), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.layer(x)
            gated = torch.sigmoid(hidden) * self.act(hidden)  # the first takes the layer's row
            hidden += x  # another version of the tensor that the layer returned
            return F.relu(hidden) + F.relu(gated)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Own()

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.inner(x))

    net = Outer().double()
    rows = activations(probed(net, lambda: net(torch.randn(4, 3, dtype=torch.float64))))
    assert {key: rows[key]["source"] for key in rows if key[2] == "activation"} == {
        ("inner.layer", 0, "activation"): "sigmoid",
        ("inner.act", 0, "activation"): "Tanh",
        ("inner", 0, "activation"): "relu",
        ("inner", 1, "activation"): "relu",
        ("(root)", 0, "activation"): "tanh",
    }


@pytest.mark.parametrize("in_inference", [False, True])
def test_inference_tensors_written_to_are_recognised(in_inference: bool) -> None:
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.relu = nn.Linear(3, 3), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            out = self.layer(x)
            out += x
            return self.relu(out)

    net = Shortcut()
    with torch.inference_mode(in_inference):
        rows = activations(probed(net, lambda: net(torch.randn(4, 3)), gradients=False))
    assert [key for key in rows if key[2] == "activation"] == [("relu", 0, "activation")]


@pytest.mark.parametrize(
    ("module", "low", "high"),
    [(nn.Sigmoid(), 0, 1), (nn.Tanh(), -1, 1), (nn.ReLU6(), 0, 6), (nn.Hardtanh(-0.5, 0.25), -0.5, 0.25)],
    ids=lambda value: type(value).__name__,
)
def test_saturated_values_lie_within_a_hundredth_of_the_range_from_an_asymptote(
    module: nn.Module, low: float, high: float
) -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), module, nn.Linear(1, 1)).double()
    nn.init.ones_(net[0].weight)
    x = torch.linspace(-8, 8, 401, dtype=torch.float64)[:, None]
    rows = activations(probed(net, lambda: net(x)))
    values = np.array([module(value).item() for value in x])
    margin = 0.01 * (high - low)
    share = np.mean((values <= low + margin) | (values >= high - margin))
    assert rows["0", 0, "activation"]["saturated_fraction"] == pytest.approx(share)
    assert 0 < share < 1
    assert rows["2", 0, "input"]["saturated_fraction"] is None  # the same tensor, but not an activation site
    assert rows["0", 0, "preactivation"]["saturated_fraction"] is None


def test_functions_without_two_asymptotes_do_not_saturate() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    row = activations(probed(net, lambda: net(torch.ones(2, 2))))["0", 0, "activation"]
    assert row["saturated_fraction"] is None
    assert not math.isnan(row["mean"])
