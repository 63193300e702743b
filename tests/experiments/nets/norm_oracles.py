"""What each normalisation returns and sends back, in numpy and float64, from the formulas alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EPS = 1e-5
POWERS = {"l1": 1.0, "l2": 2.0, "linf": math.inf}
BATCH = ("batch", "batch-after-activation", "batch-both", "batch-fixed-affine")
OVER_THE_BATCH = (*BATCH, "batch-detached-mean", "batch-detached")


@dataclass(frozen=True)
class Expected:
    """z = gamma x-hat + beta, and the gradients of <g, z>."""

    output: Array
    input_gradient: Array
    weight_gradient: Array
    bias_gradient: Array


def per_channel(value: Array, x: Array) -> Array:
    """(C,) in a shape that broadcasts with (N, C, *spatial)."""
    return value.reshape((1, -1) + (1,) * (x.ndim - 2))


def channel_axes(x: Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def expected(name: str, x: Array, g: Array, gamma: Array, beta: Array) -> Expected:
    """What one training step of the normalisation called `name` gives, its running averages at their start."""
    w = per_channel(gamma, x)
    x_hat, backward = _normalised(name, x, w * g)
    axes = channel_axes(x)
    return Expected(w * x_hat + per_channel(beta, x), backward, (g * x_hat).sum(axes), g.sum(axes))


def _normalised(name: str, x: Array, h: Array) -> tuple[Array, Array]:
    """Return x-hat, and what comes back for h = dL/d(x-hat)."""
    if name in POWERS:
        return _power_mean(POWERS[name], x, h)
    if name == "population":  # mean 0, variance 1 before the first step
        return x / math.sqrt(1 + EPS), h / math.sqrt(1 + EPS)
    if name == "group":
        groups = x.shape[1] // 16
        shape = (x.shape[0], groups, -1)
        x_hat, backward = _whitened(x.reshape(shape), h.reshape(shape), (2,))
        return x_hat.reshape(x.shape), backward.reshape(x.shape)
    axes = {"layer": tuple(range(1, x.ndim)), "instance": tuple(range(2, x.ndim))}.get(name, channel_axes(x))
    return _whitened(x, h, axes, through_mean="detached" not in name, through_variance=name != "batch-detached")


def _whitened(
    x: Array, h: Array, axes: tuple[int, ...], *, through_mean: bool = True, through_variance: bool = True
) -> tuple[Array, Array]:
    sigma = np.sqrt(x.var(axes, keepdims=True) + EPS)
    x_hat = (x - x.mean(axes, keepdims=True)) / sigma
    backward = h.copy()
    if through_mean:
        backward -= h.mean(axes, keepdims=True)
    if through_variance:
        backward -= x_hat * (h * x_hat).mean(axes, keepdims=True)
    return x_hat, backward / sigma


def average_norm(p: float, x: Array) -> Array:
    """The average lp norm of every channel, its axes kept."""
    size = np.abs(x)
    if p == math.inf:
        return size.max(channel_axes(x), keepdims=True) + EPS
    return ((size**p).mean(channel_axes(x), keepdims=True) + EPS) ** (1 / p)


def _power_mean(p: float, x: Array, h: Array) -> tuple[Array, Array]:
    axes, n = channel_axes(x), average_norm(p, x)
    m = x.size / x.shape[1]
    centred = x - x.mean(axes, keepdims=True)
    if p == math.inf:
        dn = np.sign(x) * (np.abs(x) == np.abs(x).max(axes, keepdims=True))
    else:
        dn = np.sign(x) * np.abs(x) ** (p - 1) / m * n ** (1 - p)
    along = (h * centred).sum(axes, keepdims=True)
    return centred / n, (h - h.mean(axes, keepdims=True)) / n - along / n**2 * dn
