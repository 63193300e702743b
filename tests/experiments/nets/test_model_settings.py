"""Bias, dropout, activation, initial weights and width of the nets, by name and against what they should compute."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ics.errors import SelectionError, UsageError
from ics.experiments import load_model
from ics.experiments.nets.activations import ACTIVATIONS
from ics.experiments.nets.initialisations import INITS
from ics.experiments.nets.norms import NORMS
from ics.probes.structure.activations import is_activation
from tests.experiments.toy_nets import IMAGE, build, shape_for, weights


def test_no_norm_changes_the_weights_that_a_seed_draws() -> None:
    expected = weights(build("mlp"))
    for norm in NORMS:
        if norm != "instance":
            for bias in (True, False):
                found = weights(build("mlp", norm=norm, bias=bias, dropout=0.5))
                assert all(map(torch.equal, found, expected)), (norm, bias)


@pytest.mark.parametrize("name", ["mlp", "vgg11"])
def test_without_bias_only_the_output_has_one(name: str) -> None:
    model = build(name, bias=False, norm="batch")
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert [module.bias is None for module in layers] == [True] * (len(layers) - 1) + [False]


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_bias_in_front_of_batchnorm_is_all_that_can_go_unnoticed(norm: str) -> None:
    x = torch.randn(16, *IMAGE, generator=torch.Generator().manual_seed(1)).double()
    with_bias, without = (build("mlp", norm=norm, bias=bias).double()(x) for bias in (True, False))
    assert torch.allclose(with_bias, without, rtol=1e-10) == (norm == "batch")


@pytest.mark.parametrize("name", ["mlp", "vgg11", "resnet18"])
def test_dropout_follows_every_activation(name: str) -> None:
    model = build(name, dropout=0.25)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(nn.Dropout) == kinds.count(nn.ReLU) > 0
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.25}
    x = torch.ones(2, *IMAGE)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    for refused in (1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match=r"dropout=0\.5"):
            build(name, dropout=refused)


@pytest.mark.parametrize("name", ["mlp", "vgg11", "resnet18"])
def test_activations_by_name(name: str) -> None:
    for activation, kind in ACTIVATIONS.items():
        with torch.device("meta"):
            model = load_model(name, activation=activation)
        found = {type(module) for module in model.modules() if is_activation(module)}
        assert found == {kind} - {nn.Identity}
        assert isinstance(model.get_submodule({"mlp": "activation1", "vgg11": "features.1"}.get(name, "relu")), kind)
    with pytest.raises(SelectionError, match="'sigmoid'"):
        load_model(name, activation="sigmoyd")


@pytest.mark.parametrize("activation", ["tanh", "gelu", "prelu"])
def test_resnet_computes_the_activation_in_every_block(activation: str) -> None:
    model, relu = build("resnet18", activation=activation), build("resnet18")
    x = torch.randn(2, *IMAGE)
    block, expected = model.layer2[0], ACTIVATIONS[activation]()
    inputs = torch.randn(2, 64, 4, 4)
    inner = block.conv2(expected(block.conv1(inputs)))
    torch.testing.assert_close(block(inputs), expected(inner + block.downsample(inputs)))
    assert not torch.allclose(model(x), relu(x))


@pytest.mark.parametrize("depth", [1, 5, 30])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_chain_of_one_unit_per_layer(depth: int, norm: str) -> None:
    model = build("mlp", input_shape=(1,), num_outputs=1, hidden=(1,) * depth, activation="identity", norm=norm)
    x = torch.randn(32, 1, dtype=torch.float64)
    found = model.double()(x).detach()
    wanted = x
    for layer in (module for module in model if isinstance(module, nn.Linear)):
        wanted = layer.weight.item() * wanted + layer.bias.item()
        if norm == "batch" and layer is not model.output:
            wanted = (wanted - wanted.mean()) / (wanted.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(found, wanted)


VARIANCES = {
    "default": 1 / (3 * 300),
    "glorot": 2 / (300 + 200),
    "xavier_normal": 2 / (300 + 200),
    "he": 2 / 300,
    "kaiming": 2 / 300,
    "he_uniform": 2 / 300,
    "lecun": 1 / 300,
    "gaussian": 0.01,
    "orthogonal": 1 / 300,
}


@pytest.mark.parametrize(("init", "variance"), VARIANCES.items())
def test_initial_variances(init: str, variance: float) -> None:
    model = build("mlp", input_shape=(300,), hidden=(200,), init=init)
    weight = model.linear1.weight
    assert weight.var().item() == pytest.approx(variance, rel=0.03)  # 60 000 weights: 0.006 for the normal ones
    assert weight.mean().abs().item() < 4 * math.sqrt(variance / weight.numel())
    if init in ("glorot", "he_uniform"):
        assert weight.abs().max().item() == pytest.approx(math.sqrt(3 * variance), rel=1e-3)
    if init == "orthogonal":
        torch.testing.assert_close(weight @ weight.T, torch.eye(200), atol=1e-5, rtol=0)
    assert (model.linear1.bias.abs().max() == 0) == (init != "default")


def test_every_init_is_tested_and_unknown_ones_get_a_sentence() -> None:
    assert VARIANCES.keys() == INITS.keys()
    for name in ("mlp", "vgg11", "resnet18", "deep_linear"):
        with pytest.raises(SelectionError, match="'orthogonal'"):
            load_model(name, input_shape=shape_for(name), init="orthogonl")
