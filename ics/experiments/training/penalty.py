"""A penalty that pulls the pre-activations of every hidden unit towards a Gaussian: part of the loss, logged apart.

The penalty is a divergence: it is 0 for a standard normal distribution, has a unit (nat), and a known size for samples.
The Kullback-Leibler divergence of any density p of mean mu and variance v from N(0, 1) splits exactly into two terms:

    KL(p || N(0, 1)) = KL(N(mu, v) || N(0, 1)) + J(p),     J(p) = KL(p || N(mu, v)), the negentropy,

of which the first fixes mean and variance, as BatchNorm does, and the second the shape, as BatchNorm does not:

    KL(N(mu, v) || N(0, 1)) = (mu^2 + v - 1 - ln v) / 2
    J(p) ~ skewness^2 / 12 + excess_kurtosis^2 / 48

The last line is the Edgeworth expansion of J to its leading terms (Jones & Sibson 1987, "What is projection pursuit?",
sec. 3; Hyvarinen & Oja 2000, "Independent component analysis: algorithms and applications", eq. 23). It is good near a
Gaussian; far from one it is only a distance that vanishes for shapes with a Gaussian's third and fourth moments.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ics.experiments.data.examples import Batch
from ics.experiments.nets.layers import NetLayer, by_unit
from ics.experiments.training.losses import LossFunction, total

VARIANCE_FLOOR = 1e-5


def gaussian_divergence(values: Tensor) -> Tensor:
    """Return the mean over units of KL(p || N(0, 1)), estimated as this module says.

    Args:
        values: (units, m): m values of each unit. Moments are over the m values, biased, as BatchNorm's.

    Returns:
        One number, in nats, differentiable. `VARIANCE_FLOOR` is added to variances, so that a constant unit has a large
        penalty and not an infinite one. For m values that are drawn from N(0, 1) the expectation is about 2 / m: each
        of the four statistics adds 1 / (2 m).

    Cost: a few reads of `values`, forward and backward.

    Example:
        >>> values = torch.tensor([[1.0, -1.0]], dtype=torch.float64)    # kurtosis 1: (1 - 3)^2 / 48
        >>> round(gaussian_divergence(values).item(), 4)
        0.0833
    """
    mean = values.mean(dim=1, keepdim=True)
    centred = values - mean  # a tensor of its own: in-place activations overwrite `values` before the backward pass
    variance = centred.square().mean(dim=1, keepdim=True) + VARIANCE_FLOOR
    standard = centred * variance.rsqrt()
    square = standard.square()  # products: on a CPU torch takes ten times as long for powers
    skewness, excess_kurtosis = (square * standard).mean(dim=1), square.square().mean(dim=1) - 3
    of_normals = (mean.square() + variance - 1 - variance.log()).squeeze(1) / 2
    return (of_normals + skewness.square() / 12 + excess_kurtosis.square() / 48).mean()


class PenalisedLoss:
    """The loss of a batch plus `strength` times the sum over hidden layers of `gaussian_divergence`.

    The penalty is part of the function that is trained, so what evaluates the loss elsewhere (gradient_shift,
    gradient_line, curvature) measures the sum. A run logs the terms apart, `loss` being the data loss: the losses of
    nets with and without the penalty are then the same quantity.

    The pre-activations come from forward hooks that stay on the layers, so they also run when an instrument replays a
    pass.

    Args:
        data_loss: the loss without the penalty.
        layers: whose outputs W u + b are penalised, before any normalisation; every call of a reused one counts.
        strength: loss per nat.

    Example:
        >>> from ics.experiments.nets.layers import hidden_layers, layers_in_order
        >>> from ics.experiments.training.losses import cross_entropy
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> hidden = hidden_layers(layers_in_order(model, torch.zeros(2, 3)), needed_for="gaussian_penalty")
        >>> loss_fn = PenalisedLoss(cross_entropy, layers=hidden, strength=0.1)
        >>> sorted(loss_fn.terms(model, (torch.randn(8, 3), torch.zeros(8, dtype=torch.int64))))
        ['gaussian_penalty', 'loss']
    """

    def __init__(self, data_loss: LossFunction, *, layers: Iterable[NetLayer], strength: float) -> None:
        self.data_loss = data_loss
        self.strength = strength
        self._divergences: list[Tensor] | None = None  # None: a pass that nobody penalises, an evaluation say
        for layer in layers:
            layer.module.register_forward_hook(self._take)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss that is trained."""
        return total(self.terms(model, batch))

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the data loss as `loss`, and the penalty, strength included, as `gaussian_penalty`."""
        self._divergences = []
        try:
            loss = self.data_loss(model, batch)
            penalty = self.strength * torch.stack(self._divergences).sum()
        finally:
            self._divergences = None
        return {"loss": loss, "gaussian_penalty": penalty}

    def _take(self, module: nn.Module, _: object, output: Tensor) -> None:
        if self._divergences is not None:
            self._divergences.append(gaussian_divergence(by_unit(module, output)))
