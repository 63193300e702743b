"""The nets of the published experiments, each with and without normalisation, and models of your own.

mlp          hidden layers of any width; Ioffe & Szegedy 2015, sec. 4.1 has three of 100 sigmoid units
deep_linear  25 linear layers of 10 x 10; Santurkar et al. 2018, sec. 3
vgg11 vgg16  torchvision's convolutions with one linear layer on top, for images of 32 x 32 and more
resnet18     torchvision's with a 3 x 3 stem and no first pooling, as is usual for images of 32 x 32
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import nn

from ics.errors import UsageError

NUM_LINEAR_LAYERS = 25
GAUSSIAN_STD = 0.1

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def initialise(model: nn.Module, init: str) -> None:
    """Draw the weights of all linear and convolutional layers anew.

    Args:
        model: its layers are changed in place.
        init: `"glorot"`: uniform on +-sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 16);
            `"gaussian"`: normal with standard deviation 0.1; both set biases to 0. `"default"` changes nothing.
    """
    if init == "default":
        return
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if init == "glorot":
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.normal_(module.weight, std=GAUSSIAN_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def mlp(
    *,
    input_shape: tuple[int, ...],
    num_outputs: int,
    norm: str = "none",
    init: str = "default",
    hidden: tuple[int, ...] = (64, 64, 64),
    activation: str = "relu",
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
        modules[f"linear{number}"] = nn.Linear(width, units)
        if norm == "batch":
            modules[f"norm{number}"] = nn.BatchNorm1d(units)
        modules[f"activation{number}"] = _ACTIVATIONS[activation]()
        width = units
    modules["output"] = nn.Linear(width, num_outputs)
    model = nn.Sequential(modules)
    initialise(model, init)
    return model


def deep_linear(
    *, input_shape: tuple[int, ...], num_outputs: int, norm: str = "none", init: str = "glorot"
) -> nn.Sequential:
    """Return 25 linear layers without biases, with normalisation after all but the last (Santurkar 2018, sec. 3)."""
    if len(input_shape) != 1:
        raise UsageError(f"deep_linear takes vectors, got inputs of shape {input_shape}; type data='gaussian'")
    (width,) = input_shape
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, NUM_LINEAR_LAYERS):
        modules[f"linear{number}"] = nn.Linear(width, width, bias=False)
        if norm == "batch":
            modules[f"norm{number}"] = nn.BatchNorm1d(width)
    modules["output"] = nn.Linear(width, num_outputs, bias=False)
    model = nn.Sequential(modules)
    initialise(model, init)
    return model


def vgg11(
    *, input_shape: tuple[int, ...], num_outputs: int, norm: str = "none", init: str = "default"
) -> nn.Sequential:
    """Return VGG-11 (configuration A): 8 convolutions and one linear layer. See `vgg`."""
    return vgg("A", input_shape=input_shape, num_outputs=num_outputs, norm=norm, init=init)


def vgg16(
    *, input_shape: tuple[int, ...], num_outputs: int, norm: str = "none", init: str = "default"
) -> nn.Sequential:
    """Return VGG-16 (configuration D): 13 convolutions and one linear layer. See `vgg`."""
    return vgg("D", input_shape=input_shape, num_outputs=num_outputs, norm=norm, init=init)


def vgg(
    configuration: str, *, input_shape: tuple[int, ...], num_outputs: int, norm: str = "none", init: str = "default"
) -> nn.Sequential:
    """Return torchvision's VGG features, average pooling to 1 x 1, and one linear layer.

    torchvision's head (4096 units twice, for 7 x 7 maps) would hold nine tenths of the weights at 32 x 32.
    The activations are in place, as in torchvision.

    Args:
        configuration: `"A"`, `"B"`, `"D"` or `"E"` (Simonyan & Zisserman 2015, table 1).
        input_shape: (channels, height, width), at least 32 x 32.
        num_outputs: number of classes.
        norm: `"batch"` puts BatchNorm between each convolution and its ReLU.
        init: see `initialise`.
    """
    from torchvision.models.vgg import cfgs, make_layers

    channels = _image_shape("vgg", input_shape, least=32)[0]
    features = make_layers(cfgs[configuration], batch_norm=norm == "batch")
    if channels != 3:
        features[0] = nn.Conv2d(channels, features[0].out_channels, kernel_size=3, padding=1)
    head = nn.Linear(512, num_outputs)
    pooling = nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(OrderedDict(features=features, avgpool=pooling, flatten=nn.Flatten(), classifier=head))
    initialise(model, init)
    return model


def resnet18(*, input_shape: tuple[int, ...], num_outputs: int, norm: str = "none", init: str = "default") -> nn.Module:
    """Return torchvision's ResNet-18 with a 3 x 3 stem of stride 1 and without the first pooling.

    Without normalisation each of the 8 residual blocks would double the variance of the activations. Their last
    convolutions are therefore scaled by 8^-1/2, which bounds the growth over the whole net by (1 + 1/8)^8 < e
    (Zhang et al. 2019, "Fixup", start them at 0; a weight of 0 has no gradient to measure in the layers below).
    """
    from torchvision.models.resnet import BasicBlock
    from torchvision.models.resnet import resnet18 as torchvision_resnet18

    channels = _image_shape("resnet18", input_shape, least=8)[0]
    norm_layer: Callable[..., nn.Module] = nn.BatchNorm2d if norm == "batch" else nn.Identity
    model: nn.Module = torchvision_resnet18(num_classes=num_outputs, norm_layer=norm_layer)
    stem = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1, model.maxpool = stem, nn.Identity()
    initialise(model, init)
    if norm == "none":
        blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
        with torch.no_grad():
            for block in blocks:
                block.conv2.weight.mul_(len(blocks) ** -0.5)
    return model


def _image_shape(name: str, input_shape: tuple[int, ...], *, least: int) -> tuple[int, ...]:
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
