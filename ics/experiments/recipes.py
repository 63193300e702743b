"""Published experiments, and small ones, as whole configurations.

A recipe is a function of `norm` that returns a `RunConfig`. `recipe(name, ...)` can change any setting, including those
of the variants of training that no recipe uses: `gaussian_penalty`, `whiten_after_step`, `one_layer_per_step`. Costs
are those of the training without instruments, unless stated otherwise; a measured step costs a stated multiple of a
plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ics.errors import UsageError, unknown_name
from ics.experiments.training.config import RunConfig

LABELS: Mapping[str, str] = {
    "none": "standard",
    "batch": "BatchNorm",
    "layer": "LayerNorm",
    "group": "GroupNorm",
    "instance": "InstanceNorm",
    "batch-after-activation": "BatchNorm of u",
    "batch-both": "BatchNorm of Wu+b and u",
    "batch-fixed-affine": "BatchNorm, gamma and beta fixed",
    "noisy-batch": "noisy BatchNorm",
    "l1": "l1 norm",
    "l2": "l2 norm",
    "linf": "l-infinity norm",
    "batch-detached-mean": "BatchNorm, mean detached",
    "batch-detached": "BatchNorm, mean and variance detached",
    "population": "population norm",
}
"""The names of the nets of a comparison in tables and figures, by normalisation."""

_EVERYTHING = {
    "activations": "log_spaced(40)",
    "gradients": "log_spaced(40)",
    "normalization": "log_spaced(40)",
    "gradient_shift": "log_spaced(40)",
    "gradient_line": "log_spaced(40)",
}


def digits_mlp(*, norm: str = "none") -> RunConfig:
    """Three layers of 64 ReLU units on 8 x 8 scans of digits: the demonstration.

    Source: none; small enough for every instrument at every tenth step. Cost: 2 to 10 s, instruments included.
    """
    return RunConfig(
        recipe="digits-mlp",
        net=LABELS.get(norm, norm),
        model="mlp",
        norm=norm,
        data="digits",
        hidden=(64, 64, 64),
        steps=400,
        batch_size=128,
        learning_rate=0.1,
        instruments={
            "activations": "every(10)",
            "gradients": "every(10)",
            "normalization": "every(10)",
            "gradient_shift": "every(10)",
            "gradient_line": "every(20)",
        },
        evaluate_every=20,
        device="cpu",
        num_threads=1,
    )


def digits_sigmoid(*, norm: str = "none") -> RunConfig:
    """mnist-sigmoid on scikit-learn's digits, for machines without MNIST.

    Source: the setting of Ioffe & Szegedy 2015, sec. 4.1, on smaller images. Cost: about 10 s on a CPU.
    """
    return mnist_sigmoid(norm=norm).replace(recipe="digits-sigmoid", data="digits", steps=5000, evaluate_every=100)


def mnist_sigmoid(*, norm: str = "none") -> RunConfig:
    """Three layers of 100 sigmoid units on MNIST, 50 000 steps of batch 60.

    Source: Ioffe & Szegedy 2015, sec. 4.1 and Fig. 1, whose percentiles come from the `activations` table. The paper
    starts from "small random Gaussian values" and names neither their size nor the learning rate: 0.1 and 0.1 here.
    Cost: about a minute on a CPU.
    """
    return RunConfig(
        recipe="mnist-sigmoid",
        net=LABELS.get(norm, norm),
        model="mlp",
        norm=norm,
        activation="sigmoid",
        hidden=(100, 100, 100),
        init="gaussian",
        data="mnist",
        steps=50_000,
        batch_size=60,
        learning_rate=0.1,
        instruments={**_EVERYTHING, "activations": "log_spaced(200)"},
        evaluate_every=1000,
        num_threads=1,
    )


def vgg16_cifar(*, norm: str = "none") -> RunConfig:
    """VGG-16 on CIFAR-10: lr 0.1, batch 128, 15 000 steps, Glorot, no augmentation.

    Source: Santurkar et al. 2018, sec. 2 and app. A (83 % test accuracy with BatchNorm, 80 % without). Cost: minutes on
    a GPU, most of a day on two CPU cores; each measured step costs about 30 plain ones, gradient_line most of it.
    """
    return RunConfig(
        recipe="vgg16-cifar",
        net=LABELS.get(norm, norm),
        model="vgg16",
        norm=norm,
        init="glorot",
        data="cifar10",
        steps=15_000,
        batch_size=128,
        learning_rate=0.1,
        instruments=_EVERYTHING,
        evaluate_every=500,
    )


def vgg11_cifar(*, norm: str = "none") -> RunConfig:
    """vgg16-cifar with VGG-11, which without BatchNorm starts to learn sooner.

    Source: the setting of Santurkar et al. 2018 on the smaller net of Simonyan & Zisserman 2015, table 1. Cost: half of
    vgg16-cifar's.
    """
    return vgg16_cifar(norm=norm).replace(recipe="vgg11-cifar", model="vgg11")


def resnet18_cifar(*, norm: str = "none") -> RunConfig:
    """ResNet-18 on CIFAR-10: lr 0.02, momentum 0.9, weight decay 5e-4, batch 128, 15 000 steps.

    Source: He et al. 2016 with the stem usual for 32 x 32; the learning rate is the net without normalisation's, which
    diverges at the usual 0.1, and serves both so that they differ in nothing else. Cost: minutes on a GPU, days on two
    CPU cores.
    """
    return vgg16_cifar(norm=norm).replace(
        recipe="resnet18-cifar", model="resnet18", init="default", learning_rate=0.02, momentum=0.9, weight_decay=5e-4
    )


def deep_linear(*, norm: str = "none") -> RunConfig:
    """25 linear layers of 10 x 10 that learn y = A x, full batch, lr 1e-6, 10 000 steps.

    Source: Santurkar et al. 2018, sec. 2.2 and 3, with step sizes from 1/100 to 30 times the learning rate. The other
    learning rate of the paper: `learning_rate=1e-7`. Cost: 30 s plain, 80 s with BatchNorm on one core.
    """
    return RunConfig(
        recipe="deep-linear",
        net=LABELS.get(norm, norm),
        model="deep_linear",
        norm=norm,
        init="glorot",
        data="gaussian",
        loss="sum_squared_error",
        steps=10_000,
        batch_size=None,
        learning_rate=1e-6,
        instruments={
            "activations": "every(500)",
            "gradients": "every(500)",
            "normalization": "every(500)",
            "gradient_shift": "every(100)",
            "gradient_line": "every(100)",
        },
        line_range=(0.01, 30.0),
        line_points=16,
        device="cpu",
        num_threads=1,
    )


RECIPES: Mapping[str, Callable[..., RunConfig]] = {
    "digits-mlp": digits_mlp,
    "digits-sigmoid": digits_sigmoid,
    "mnist-sigmoid": mnist_sigmoid,
    "deep-linear": deep_linear,
    "vgg11-cifar": vgg11_cifar,
    "vgg16-cifar": vgg16_cifar,
    "resnet18-cifar": resnet18_cifar,
}


def recipe(name: str, **changes: Any) -> RunConfig:
    """Return the configuration of a recipe, with any settings changed.

    Args:
        name: a name in `RECIPES`.
        changes: settings of `RunConfig`. `norm` also chooses the label `net`, unless that is given.

    Raises:
        SelectionError: no recipe or no setting has this name.
        UsageError: a setting cannot be used.

    Example:
        >>> config = recipe("vgg11-cifar", norm="batch", steps=200)
        >>> config.net, config.model, config.norm, config.steps, config.learning_rate
        ('BatchNorm', 'vgg11', 'batch', 200, 0.1)
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    norm = changes.pop("norm", "none")
    return RECIPES[name](norm=norm).replace(**changes)


def demo_configs(*, num_seeds: int = 2) -> list[RunConfig]:
    """Return the runs of the demonstration: digits-mlp with and without BatchNorm, `num_seeds` seeds each.

    Cost: every instrument included, all four together under 40 s on two cores.
    """
    if num_seeds < 1:
        raise UsageError(f"num_seeds is at least 1, got {num_seeds}")
    return [recipe("digits-mlp", norm=norm, seed=seed) for norm in ("none", "batch") for seed in range(num_seeds)]
