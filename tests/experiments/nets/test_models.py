"""The nets have the published shape, start as stated, and can be trained in every variant."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
import torchvision
from torch import nn

from ics.errors import UsageError
from ics.experiments import MODELS, load_model, recipes
from ics.experiments.data import archives, images
from ics.experiments.nets import activations, loading, models
from ics.experiments.nets.norms import NORMS
from ics.experiments.training import config
from tests.experiments.toy_nets import IMAGE, build, shape_for, weights


@pytest.mark.parametrize(
    ("name", "num_layers", "num_norms"),
    [("mlp", 4, 3), ("deep_linear", 25, 24), ("vgg11", 9, 8), ("vgg16", 14, 13), ("resnet18", 21, 20)],
)
def test_number_of_layers(name: str, num_layers: int, num_norms: int) -> None:
    for norm, expected in (("none", 0), ("batch", num_norms)):
        model = build(name, norm=norm)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
        assert (len(weights(model)), len(norms)) == (num_layers, expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_step_reaches_every_parameter(name: str, norm: str) -> None:
    model = build(name, norm=norm, init="glorot" if name == "deep_linear" else "default")
    outputs = model(torch.randn(4, *shape_for(name)))
    assert outputs.shape == (4, 10)
    nn.functional.cross_entropy(outputs, torch.arange(4)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        if parameter.ndim > 1:
            assert parameter.grad.abs().max() > 0, key


REFUSED = {
    ("mlp", "instance"): "norm='layer'",
    ("deep_linear", "instance"): "norm='layer'",
    ("deep_linear", "batch-both"): "norm='batch'",
    ("resnet18", "batch-after-activation"): "model='vgg11'",
    ("resnet18", "batch-both"): "model='vgg11'",
}


@pytest.mark.parametrize("name", ["mlp", "deep_linear", "vgg11", "resnet18"])
@pytest.mark.parametrize("norm", NORMS)
def test_every_net_takes_every_norm_or_says_what_to_type(name: str, norm: str) -> None:
    with torch.device("meta"):  # shapes and graphs without the arithmetic
        if (name, norm) in REFUSED:
            with pytest.raises(UsageError, match=REFUSED[name, norm]):
                load_model(name, input_shape=shape_for(name), norm=norm)
            return
        model = load_model(name, input_shape=shape_for(name), norm=norm)
        outputs = model(torch.empty(4, *shape_for(name)))
    outputs.sum().backward()
    assert outputs.shape == (4, 10)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any(type(module).__name__ == "_Placeholder" for module in model.modules())


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "instance"])
def test_mlp_trains_with_every_norm(norm: str) -> None:
    model = build("mlp", norm=norm, hidden=(20, 20), input_shape=(6,), num_outputs=2)
    x = torch.randn(64, 6)
    labels, optimizer = (x[:, 0] * x[:, 1] > 0).long(), torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("norm", "names"),
    [
        ("batch", ["linear", "norm", "activation", "dropout"]),
        ("batch-after-activation", ["linear", "activation", "activation_norm", "dropout"]),
        ("batch-both", ["linear", "norm", "activation", "activation_norm", "dropout"]),
    ],
)
def test_positions(norm: str, names: list[str]) -> None:
    mlp = load_model("mlp", norm=norm, hidden=(5, 5), dropout=0.5)
    hidden = [f"{name}{number}" for number in (1, 2) for name in names]
    assert [name for name, _ in mlp.named_children()] == ["flatten", *hidden, "output"]
    kinds = {"linear": "Conv2d", "activation": "ReLU", "dropout": "Dropout"}
    vgg = load_model("vgg11", norm=norm, dropout=0.5)
    found = [type(module).__name__ for module in vgg.features]
    assert found[: len(names)] == [kinds.get(name, "BatchNorm2d") for name in names]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("init", ["glorot", "gaussian"])
def test_nets_with_and_without_norm_start_from_the_same_weights(name: str, init: str) -> None:
    plain, normed = build(name, init=init), build(name, norm="batch", init=init)
    scale = [1.0] * len(weights(plain))
    if name == "resnet18":
        names = [key for key, module in plain.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        scale = [8**-0.5 if key.endswith("conv2") else 1.0 for key in names]
    for a, b, factor in zip(weights(plain), weights(normed), scale, strict=True):
        torch.testing.assert_close(a, b * factor)


def test_glorot_is_uniform_within_its_bound() -> None:
    for weight in weights(build("vgg11", init="glorot")):
        receptive = math.prod(weight.shape[2:])
        bound = math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * receptive))
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_biases_start_at_zero_unless_default() -> None:
    assert all(
        module.bias.abs().max() == 0 for module in build("mlp", init="gaussian") if isinstance(module, nn.Linear)
    )
    assert any(module.bias.abs().max() > 0 for module in build("mlp") if isinstance(module, nn.Linear))


@pytest.mark.parametrize(("name", "reference"), [("vgg11", "vgg11"), ("vgg16", "vgg16")])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_vgg_features_are_torchvisions(name: str, reference: str, norm: str) -> None:
    with torch.device("meta"):
        suffix = "_bn" if norm == "batch" else ""
        expected = getattr(torchvision.models, reference + suffix)(init_weights=False).features
        model = load_model(name, norm=norm)
    assert str(model.features) == str(expected)
    assert all(module.inplace for module in model.modules() if isinstance(module, nn.ReLU))


def test_resnet_is_torchvisions_but_for_the_stem() -> None:
    with torch.device("meta"):
        expected = torchvision.models.resnet18(num_classes=10).state_dict()
        model = load_model("resnet18", norm="batch")
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes.pop("conv1.weight") == (64, 3, 3, 3)
    expected.pop("conv1.weight")
    assert shapes == {key: value.shape for key, value in expected.items()}
    assert (model.conv1.stride, type(model.maxpool)) == ((1, 1), nn.Identity)


def test_resnet_without_norm_keeps_its_activations_in_bounds() -> None:
    model = build("resnet18")
    power: dict[str, float] = {}

    def keep(name: str, output: torch.Tensor) -> None:
        power[name] = output.pow(2).mean().item()

    for name in ("layer1.0", "layer4"):
        model.get_submodule(name).register_forward_hook(lambda *seen, name=name: keep(name, seen[2]))
    model(torch.randn(4, *IMAGE))
    assert 0.1 < power["layer4"] / power["layer1.0"] < 10  # without the scaling of the branches: beyond 100


def test_other_numbers_of_channels_and_classes() -> None:
    for name in ("mlp", "vgg11", "resnet18"):
        model = load_model(name, input_shape=(1, 32, 32), num_outputs=7)
        assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", ["vgg11", "vgg16", "resnet18"])
@pytest.mark.parametrize("shape", [(3, 7, 7), (10,)])
def test_small_images_get_a_sentence(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="at least"):
        load_model(name, input_shape=shape)


def test_deep_linear_takes_vectors() -> None:
    with pytest.raises(UsageError, match="data='gaussian'"):
        load_model("deep_linear", input_shape=IMAGE)


@pytest.mark.parametrize("module", [activations, archives, config, images, loading, models, recipes])
def test_examples_in_docstrings(module: object) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
