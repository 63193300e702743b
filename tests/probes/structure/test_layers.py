"""Which layers a model has, in which order, with which parameters."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations

from ics.errors import MeasurementWarning, SelectionError, UsageError
from ics.probes import Probes, find_layers, module_names, select_layers, strip_prefixes
from tests.probes.nets import residual
from tests.probes.rows import activations, probed


def layers_of(net: nn.Module, x: Any, **options: Any) -> dict[str, Any]:
    """Return the layers by name; every parameter belongs to exactly one unless a warning says otherwise."""
    layers = find_layers(net, lambda: net(x), **options)
    owned = [name for layer in layers for name in layer.parameters]
    assert len(owned) == len(set(owned))
    assert set(owned) <= {name for name, _ in net.named_parameters()}
    assert [layer.index for layer in layers] == list(range(len(layers)))
    return {layer.name: layer for layer in layers}


def test_paper_layers_hold_the_normalisation_that_follows() -> None:
    net, x = residual(batch=2)
    layers = layers_of(net, x)
    assert list(layers) == ["stem", "conv", "head"]
    stem, conv = layers["stem"], layers["conv"]
    assert stem.modules == ("stem", "bn0")
    assert stem.parameters == ("stem.weight", "stem.bias", "bn0.weight", "bn0.bias")
    assert (stem.weight, stem.kind, stem.shape, stem.num_parameters) == (
        ("stem.weight",),
        "Conv2d",
        (3, 2, 3, 3),
        54 + 3 + 3 + 3,
    )
    assert conv.parameters == ("conv.weight", "bn1.weight", "bn1.bias")


def test_leaf_layers_are_modules() -> None:
    net, x = residual(batch=2)
    layers = layers_of(net, x, grouping="leaf")
    assert list(layers) == ["stem", "bn0", "conv", "bn1", "head"]
    assert layers["bn0"].weight == ("bn0.weight",)


def test_the_order_is_that_of_execution_not_of_declaration() -> None:
    net = torchvision.models.resnet18(num_classes=3)
    layers = list(layers_of(net, torch.zeros(2, 3, 32, 32)).values())
    names = [layer.name for layer in layers]
    assert len(names) == 21
    assert names.index("layer2.0.downsample.0") == names.index("layer2.0.conv2") + 1
    assert sum(layer.num_parameters for layer in layers) == sum(p.numel() for p in net.parameters())

    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(2, 1), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    assert list(layers_of(Backwards(), torch.zeros(1, 2))) == ["first", "last"]


def test_a_normalisation_in_front_or_after_something_else_is_its_own() -> None:
    net = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    assert list(layers_of(net, torch.zeros(4, 3))) == ["0", "1", "3", "4"]

    class Overwritten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            out = self.layer(x)
            out += x
            return self.norm(out)

    assert list(layers_of(Overwritten(), torch.zeros(4, 3))) == ["layer", "norm"]


def test_a_normalisation_without_parameters_joins_but_makes_no_layer() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))
    assert {layer.name: layer.modules for layer in layers_of(net, torch.zeros(4, 3)).values()} == {"1": ("1", "2")}


def test_shared_parameters_belong_to_the_layer_that_uses_them_first() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder, self.embed = nn.Linear(4, 9), nn.Embedding(9, 4)
            self.embed.weight = self.decoder.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.decoder(self.embed(tokens))

    layers = layers_of(Tied(), torch.zeros(2, 3, dtype=torch.long))
    assert layers["embed"].parameters == layers["embed"].weight == ("decoder.weight",)  # as in named_parameters
    assert (layers["decoder"].parameters, layers["decoder"].weight) == (("decoder.bias",), ())


def test_reused_modules_are_one_layer() -> None:
    layer = nn.Linear(3, 3)
    assert list(layers_of(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(2, 3))) == ["0"]


def test_parameters_of_modules_never_called_belong_to_the_called_one_above() -> None:
    net = nn.Sequential(nn.MultiheadAttention(4, 2))
    layers = find_layers(net, lambda: net[0](*[torch.zeros(3, 2, 4)] * 3))
    assert layers[0].parameters == (
        "0.in_proj_weight",
        "0.in_proj_bias",
        "0.out_proj.weight",
        "0.out_proj.bias",
    )
    assert layers[0].weight == ("0.in_proj_weight", "0.out_proj.weight")

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([torch.randn(3, 3) for _ in range(2)])

        def forward(self, x: Tensor) -> Tensor:
            for weight in self.weights:
                x = x @ weight
            return x

    net = nn.Sequential(Listed())
    layers_by_name = layers_of(net, torch.zeros(2, 3))
    assert layers_by_name["0"].weight == ("0.weights.0", "0.weights.1")
    assert ("0", 0, "preactivation") in activations(probed(net, lambda: net(torch.zeros(2, 3))))


def test_parametrized_layers_keep_their_names() -> None:
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU())
    layers = layers_of(net, torch.zeros(2, 3))
    assert list(layers) == ["0"]
    assert layers["0"].kind == "Linear"
    assert set(layers["0"].weight) == {f"0.parametrizations.weight.original{i}" for i in (0, 1)}
    rows = activations(probed(net, lambda: net(torch.ones(2, 3))))
    assert list(rows) == [("0", 0, "input"), ("0", 0, "preactivation"), ("0", 0, "activation")]


def test_a_module_that_is_never_used_is_named_in_a_warning() -> None:
    class WithSpare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.spare = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    with pytest.warns(MeasurementWarning, match="no parameter of spare"):
        layers = layers_of(WithSpare(), torch.zeros(2, 3))
    assert list(layers) == ["layer"]


def test_lazy_modules_get_their_shapes() -> None:
    net = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = find_layers(net, lambda: net(torch.zeros(2, 3)))
    assert (layers[0].shape, layers[0].num_parameters, layers[0].kind) == ((4, 3), 24, "Linear")


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda net: nn.DataParallel(nn.DataParallel(net)),
        torch.optim.swa_utils.AveragedModel,
        lambda net: nn.Sequential(*(checkpoint_wrapper(module) for module in net)),
        lambda net: torch.compile(net, backend="eager"),
    ],
)
def test_wrappers_leave_no_trace_in_names(wrap: Any) -> None:
    net = wrap(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()))
    x = torch.randn(5, 3, requires_grad=True)
    with torch.compiler.set_stance("force_eager"):
        (layer,) = find_layers(net, lambda: net(x))
        rows = activations(probed(net, lambda: net(x).sum().backward()))
    assert layer.name == "0"
    assert [dict(net.named_parameters())[name].shape for name in layer.weight] == [(4, 3)]
    assert [type(dict(net.named_modules())[name]) for name in layer.modules][1:] == [nn.BatchNorm1d]
    assert list(rows) == [("0", 0, site) for site in ("input", "preactivation", "normalized", "scaled", "activation")]


def test_a_submodule_called_module_is_no_wrapper() -> None:
    net = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    assert list(module_names(net).values()) == ["", "module", "head"]
    assert strip_prefixes("module.features.0.weight") == "features.0.weight"


def test_probes_know_the_layers_they_saw() -> None:
    net, x = residual(batch=2)
    probes = probed(net, lambda: net(x).sum().backward())
    assert probes.layers() == find_layers(net, lambda: net(x))
    assert Probes(net, activations=True, gradients=False, normalization=False).layers() == ()


def test_selections() -> None:
    net = torchvision.models.resnet18(num_classes=3)
    layers = find_layers(net, lambda: net(torch.zeros(2, 3, 32, 32)))
    names = lambda selection: [layer.name for layer in select_layers(layers, selection)]  # noqa: E731
    assert len(names(None)) == 21
    assert names("fc") == names("Linear") == names(nn.Linear) == ["fc"]
    assert names(["fc", "conv1"]) == ["conv1", "fc"]
    assert len(names(nn.modules.conv._ConvNd)) == 20
    assert names("layer1.0.*") == ["layer1.0.conv1", "layer1.0.conv2"]
    assert names(lambda layer: layer.num_parameters > 2_000_000) == [
        "layer4.0.conv2",
        "layer4.1.conv1",
        "layer4.1.conv2",
    ]
    with pytest.raises(SelectionError, match=r"did you mean 'layer1\.0\.conv1'"):
        names(["fc", "layer1.0.conv11"])
    with pytest.raises(SelectionError, match="no layer is a LSTM"):
        names(nn.LSTM)
    with pytest.raises(SelectionError, match="satisfies the predicate"):
        names(lambda layer: False)
    with pytest.raises(UsageError, match="got 3"):
        names(3)


def test_mistakes_get_one_sentence() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="no module of it was called"):
        find_layers(net, lambda: None)
    with pytest.raises(UsageError, match="got 'papers'"):
        find_layers(net, lambda: net(torch.zeros(1, 2)), grouping="papers")  # type: ignore[arg-type]
