"""The one net that claims need besides `ics.experiments.MODELS`: a VGG small enough for two cores."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from ics.experiments.nets.initialisations import initialise
from ics.experiments.nets.models import after_layer, check_image_shape

_WIDTHS = (16, 16, 0, 32, 32, 0, 64, 64, 0)
"""Channels of the convolutions; 0 is a pooling that halves the image."""


def small_vgg(
    *,
    input_shape: tuple[int, ...],
    num_outputs: int,
    norm: str = "none",
    init: str = "default",
    activation: str = "relu",
    bias: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return six 3 x 3 convolutions with three poolings, average pooling, and one linear layer.

    VGG's layout (Simonyan & Zisserman 2015) at an eighth of its width, for images of 16 x 16 and more; settings as in
    `ics.experiments.nets.models.vgg`.
    """
    width, number = check_image_shape("small_vgg", input_shape, least=16)[0], 0
    features: OrderedDict[str, nn.Module] = OrderedDict()
    for channels in _WIDTHS:
        if channels == 0:
            features[f"pool{number}"] = nn.MaxPool2d(2)
            continue
        number += 1
        features[f"conv{number}"] = nn.Conv2d(width, channels, kernel_size=3, padding=1, bias=bias)
        for name, module in after_layer(norm, channels, ndim=4, activation=activation, dropout=dropout):
            features[f"{name}{number}"] = module
        width = channels
    features |= {
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "classifier": nn.Linear(width, num_outputs),
    }
    model = nn.Sequential(features)
    initialise(model, init)
    return model
