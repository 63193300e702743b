"""The nets of the published experiments, each with any normalisation, and models of your own.

mlp          hidden layers of any width; Ioffe & Szegedy 2015, sec. 4.1 has three of 100 sigmoid units
deep_linear  25 linear layers of 10 x 10; Santurkar et al. 2018, sec. 3
vgg11 vgg16  torchvision's convolutions with one linear layer on top, for images of 32 x 32 and more
resnet18     torchvision's with a 3 x 3 stem and no first pooling, as is usual for images of 32 x 32

What their settings mean, where a net has them:

norm         a name in `NORMS`; its positions say whether it stands before the activation, after it, or both
activation   a name in `ACTIVATIONS`
bias         False: hidden layers have no bias; the output keeps its own
dropout      probability of 0 for each value that goes from an activation (and a norm after it) to the next layer
init         a name in `INITS`; see `initialise`
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import nn

from ics.errors import UsageError
from ics.experiments.nets.activations import make_activation
from ics.experiments.nets.initialisations import initialise
from ics.experiments.nets.norms import make_norm, norm_named

NUM_LINEAR_LAYERS = 25


def mlp(
    *,
    input_shape: tuple[int, ...],
    num_outputs: int,
    norm: str = "none",
    init: str = "default",
    hidden: tuple[int, ...] = (64, 64, 64),
    activation: str = "relu",
    bias: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return a fully connected net: linear, normalisation if any, activation; and a linear layer on top.

    Example:
        >>> model = mlp(input_shape=(1, 8, 8), num_outputs=10, norm="batch", hidden=(5,))
        >>> [name for name, _ in model.named_children()]
        ['flatten', 'linear1', 'norm1', 'activation1', 'output']
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = math.prod(input_shape)
    for number, units in enumerate(hidden, start=1):
        modules[f"linear{number}"] = _drawn(nn.Linear(width, units), bias=bias)
        for name, module in after_layer(norm, units, ndim=2, activation=activation, dropout=dropout):
            modules[f"{name}{number}"] = module
        width = units
    modules["output"] = nn.Linear(width, num_outputs)
    model = nn.Sequential(modules)
    initialise(model, init)
    return model


def deep_linear(
    *, input_shape: tuple[int, ...], num_outputs: int, norm: str = "none", init: str = "glorot"
) -> nn.Sequential:
    """Return 25 linear layers without biases, with normalisation after all but the last (Santurkar 2018, sec. 3).

    It has no activations: `norm="batch-after-activation"` is `"batch"` here, and `"batch-both"` would be BatchNorm of
    BatchNorm, which is refused.
    """
    if len(input_shape) != 1:
        raise UsageError(f"deep_linear takes vectors, got inputs of shape {input_shape}; type data='gaussian'")
    positions = norm_named(norm).positions
    if len(positions) > 1:
        raise UsageError(f"deep_linear has no activation for norm={norm!r} to stand around; type norm='batch'")
    (width,) = input_shape
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, NUM_LINEAR_LAYERS):
        modules[f"linear{number}"] = nn.Linear(width, width, bias=False)
        if positions:
            modules[f"norm{number}"] = make_norm(norm, width, ndim=2)
    modules["output"] = nn.Linear(width, num_outputs, bias=False)
    model = nn.Sequential(modules)
    initialise(model, init)
    return model


def vgg(
    configuration: str,
    *,
    input_shape: tuple[int, ...],
    num_outputs: int,
    norm: str = "none",
    init: str = "default",
    activation: str = "relu",
    bias: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return torchvision's VGG features, average pooling to 1 x 1, and one linear layer.

    torchvision's head (4096 units twice, for 7 x 7 maps) would hold nine tenths of the weights at 32 x 32.
    ReLUs are in place, as in torchvision.

    Args:
        configuration: `"A"`, `"B"`, `"D"` or `"E"` (Simonyan & Zisserman 2015, table 1).
        input_shape: (channels, height, width), at least 32 x 32.
        num_outputs: number of classes.
        norm: a name in `NORMS`; `"batch"` puts BatchNorm between each convolution and its ReLU.
        init: a name in `INITS`.
        activation: a name in `ACTIVATIONS`.
        bias: whether convolutions have one, as torchvision's do with BatchNorm too.
        dropout: probability after each activation.
    """
    from torchvision.models.vgg import cfgs

    width = check_image_shape("vgg", input_shape, least=32)[0]
    features: list[nn.Module] = []
    for entry in cfgs[configuration]:
        if entry == "M":
            features.append(nn.MaxPool2d(kernel_size=2, stride=2))
            continue
        features.append(_drawn(nn.Conv2d(width, entry, kernel_size=3, padding=1), bias=bias))
        features += [module for _, module in after_layer(norm, entry, ndim=4, activation=activation, dropout=dropout)]
        width = entry
    head = nn.Linear(width, num_outputs)
    pooling = nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(
        OrderedDict(features=nn.Sequential(*features), avgpool=pooling, flatten=nn.Flatten(), classifier=head)
    )
    initialise(model, init)
    return model


vgg11 = partial(vgg, "A")
vgg16 = partial(vgg, "D")


def _drawn(layer: nn.Linear | nn.Conv2d, *, bias: bool) -> nn.Module:
    """Return the layer, without its bias if asked: nets of one seed have the same weights with and without biases."""
    if not bias:
        layer.bias = None  # after it was drawn: without that draw all later weights would be other ones
    return layer


def after_layer(
    norm: str, width: int, *, ndim: int, activation: str, dropout: float
) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules between a hidden layer of `width` units and the next layer, with names."""
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout is a probability, at least 0 and below 1, got {dropout!r}; type dropout=0.5")
    positions = norm_named(norm).positions
    if "before" in positions:
        yield "norm", make_norm(norm, width, ndim=ndim)
    yield "activation", make_activation(activation, inplace=ndim == 4)
    if "after" in positions:
        yield "activation_norm", make_norm(norm, width, ndim=ndim)
    if dropout:
        yield "dropout", nn.Dropout(dropout)


def resnet18(
    *,
    input_shape: tuple[int, ...],
    num_outputs: int,
    norm: str = "none",
    init: str = "default",
    activation: str = "relu",
    dropout: float = 0.0,
) -> nn.Module:
    """Return torchvision's ResNet-18 with a 3 x 3 stem of stride 1 and without the first pooling.

    Without normalisation each of the 8 residual blocks would double the variance of the activations. Their last
    convolutions are therefore scaled by 8^-1/2, which bounds the growth over the whole net by (1 + 1/8)^8 < e
    (Zhang et al. 2019, "Fixup", start them at 0; a weight of 0 has no gradient to measure in the layers below).

    Its convolutions never have a bias. A norm after the activation is refused: the second activation of a block takes
    the sum with the shortcut, so that a norm there would normalise the residual stream, in no net that was published.
    """
    from torchvision.models.resnet import BasicBlock
    from torchvision.models.resnet import resnet18 as torchvision_resnet18

    channels = check_image_shape("resnet18", input_shape, least=8)[0]
    positions = norm_named(norm).positions
    if "after" in positions:
        raise UsageError(
            f"resnet18 has no place for norm={norm!r}: its activations lie on the sum with the shortcut; "
            "type norm='batch', or model='vgg11'"
        )
    # torchvision sets gamma of every norm to 1, which fails where there is none: it gets placeholders.
    model: nn.Module = torchvision_resnet18(num_classes=num_outputs, norm_layer=_Placeholder)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _Placeholder):
                setattr(parent, name, make_norm(norm, child.num_features, ndim=4))
            elif isinstance(child, nn.ReLU):
                setattr(parent, name, _activation(activation, dropout))
    stem = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1, model.maxpool = stem, nn.Identity()
    initialise(model, init)
    if not positions:
        blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
        with torch.no_grad():
            for block in blocks:
                block.conv2.weight.mul_(len(blocks) ** -0.5)
    return model


class _Placeholder(nn.Module):
    """Stands where torchvision puts a normalisation."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _activation(name: str, dropout: float) -> nn.Module:
    """Return one module, which a block calls twice: the activation, and dropout after it."""
    modules = OrderedDict(
        (kind, module) for kind, module in after_layer("none", 0, ndim=4, activation=name, dropout=dropout)
    )
    return nn.Sequential(modules) if dropout else modules["activation"]


def check_image_shape(name: str, input_shape: tuple[int, ...], *, least: int) -> tuple[int, ...]:
    """Return the shape of images (channels, height, width) of at least `least` pixels a side, else raise UsageError."""
    if len(input_shape) != 3 or min(input_shape[1:]) < least:
        raise UsageError(
            f"{name} takes images (channels, height, width) of at least {least} x {least} pixels, got {input_shape}; "
            f"type model='mlp', or image_size={least} with data='images:PATH'"
        )
    return input_shape


MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "deep_linear": deep_linear,
    "vgg11": vgg11,
    "vgg16": vgg16,
    "resnet18": resnet18,
}
