"""Standardise pre-activations by changing the weights after each step, and measure how much of the step that undoes.

A layer computes y = W u + b. With mean mu and standard deviation s of each unit of y on the training batch,

    W <- W / s,   b <- (b - mu) / s      (row by row)

gives every unit mean 0 and variance 1 on that batch. It fixes what BatchNorm fixes, but outside the gradient: the step
is computed as if this change did not follow, and the change may undo it (Ioffe & Szegedy 2015, sec. 2, whose example is
a bias that grows with every step while the loss does not change).

For each step the table `steps` tells, over weights and biases of the standardised layers together,

    proposed_update_norm    ||p||, p = W~ - W(t), W~ what the optimizer made of W(t)
    undone_update_norm      ||q||, q = W(t+1) - W~, what standardising changed
    applied_update_norm     ||p + q||, W(t+1) - W(t)
    undone_cosine           cos(q, p): -1 where the step is taken straight back
    undone_fraction         -<q, p> / ||p||^2: 1 where nothing of the step is left along its own direction
    floor_update_norm       ||f||, f the change that standardising W(t) makes on this batch when no step was made
    floor_fraction          -<f, p> / ||p||^2

and the data loss of the same batch in train mode, beside `loss`, that of W(t):

    proposed_loss           at W~: what the step alone made of it
    applied_loss            at W(t+1)
    floor_loss              at W(t) + f: what standardising alone made of it

W(t) was standardised on the batch before. On this batch the means and variances of its units are slightly different,
whatever the step. q contains that as well, so in minibatch training compare it with f. In full-batch training f is 0 up
to rounding. Fractions and cosine are NaN where no step was proposed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ics.errors import UsageError
from ics.experiments.data.examples import Batch
from ics.experiments.nets.layers import NetLayer, by_unit
from ics.experiments.training.losses import LossFunction


class Whitening:
    """Restores mean 0 and variance 1 of the pre-activations of some layers, after each step of an optimizer.

    Create it before the first step and call it after each. It runs its passes on a twin of the model, which shares the
    parameters and has its own buffers. So a recorder sees one pass of the model per step, and no running average
    advances.

    A unit that is constant on the batch (its standard deviation is below the root of the machine precision, in units
    of its root mean square) keeps its weights and is only centred. Do not standardise the output layer: logits of
    variance 1 could not become certain.

    Args:
        model: the model that is trained, in train mode.
        layers: which to standardise, in the order of execution.
        loss_fn: the data loss.
        optimizer: that steps before each call; W(t) is kept as it begins to.

    Raises:
        UsageError: a layer has no bias, or runs several times a pass.

    Cost of a step: three forward passes, and copies of all parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: Sequence[NetLayer],
        loss_fn: LossFunction,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        _check(layers)
        self._model, self._loss_fn = model, loss_fn
        # On the model itself these passes would count as passes of the step, and probes would record them.
        # deepcopy takes what its memo holds for copied already: the twin shares the parameters.
        self._twin = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
        self._standardising = False
        for layer in layers:
            self._twin.get_submodule(layer.name).register_forward_hook(self._standardise)
        self._all = list(model.parameters())
        self._changed = [parameter for layer in layers for parameter in layer.module.parameters(recurse=False)]
        self._before: list[Tensor] = []
        optimizer.register_step_pre_hook(lambda *_: self._keep())

    def standardise(self, batch: Batch) -> Tensor:
        """Change the layers' weights and biases so that their units have mean 0 and variance 1 on the batch.

        One pass: each layer is changed as it has run, and hands on what it would have computed with its new weights.
        Returns the data loss with the new weights.
        """
        self._standardising = True
        try:
            return self._pass(batch)
        finally:
            self._standardising = False

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Standardise after a step on `batch`, and return the columns that this module names, on the device."""
        if not self._before:
            raise UsageError("Whitening is called after a step of its optimizer, got none; type optimizer.step() first")
        proposed = _copies(self._all)
        losses = {"proposed_loss": self._pass(batch)}
        _assign(self._all, self._before)
        # First without the step: another batch has other statistics, for which alone standardising changes weights.
        start = self._vector()
        losses["floor_loss"] = self.standardise(batch)
        floor = self._vector() - start
        _assign(self._all, proposed)
        step = self._vector() - start
        losses["applied_loss"] = self.standardise(batch)
        applied = self._vector() - start
        self._before = []
        return _columns(proposed=step, undone=applied - step, floor=floor) | losses

    def _keep(self) -> None:
        self._before = _copies(self._all)

    @torch.no_grad()
    def _pass(self, batch: Batch) -> Tensor:
        for own, current in zip(self._twin.buffers(), self._model.buffers(), strict=True):
            own.copy_(current)
        return self._loss_fn(self._twin, batch)

    def _standardise(self, module: nn.Module, _: object, output: Tensor) -> Tensor | None:
        return _standardised(module, output) if self._standardising else None

    def _vector(self) -> Tensor:
        """Return what is standardised as one vector, in float64 because changes are small differences of weights."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self._changed]).double()


def _standardised(module: nn.Module, output: Tensor) -> Tensor:
    """Change the weights of a module that has run, and return what it would have returned with them."""
    units = by_unit(module, output)
    variance, mean = torch.var_mean(units, dim=1, correction=0)
    # A smaller variance is rounding error: weights divided by its root would explode.
    varies = variance > torch.finfo(variance.dtype).eps * (variance + mean.square())
    scale = torch.where(varies, variance.rsqrt(), 1)
    weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
    weight.mul_(scale.view(-1, *[1] * (weight.ndim - 1)))
    bias.sub_(mean).mul_(scale)
    shape = [1] * output.ndim
    shape[-1 if isinstance(module, nn.Linear) else 1] = len(scale)
    return (output - mean.view(shape)) * scale.view(shape)


def _columns(*, proposed: Tensor, undone: Tensor, floor: Tensor) -> dict[str, Tensor]:
    square, along = proposed.dot(proposed), undone.dot(proposed)
    return {
        "proposed_update_norm": proposed.norm(),
        "undone_update_norm": undone.norm(),
        "applied_update_norm": (proposed + undone).norm(),
        "undone_cosine": along / (proposed.norm() * undone.norm()),
        "undone_fraction": -along / square,
        "floor_update_norm": floor.norm(),
        "floor_fraction": -floor.dot(proposed) / square,
    }


def _copies(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def _assign(parameters: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def _check(layers: Iterable[NetLayer]) -> None:
    for layer in layers:
        if layer.module.bias is None:
            raise UsageError(f"whiten_after_step centres by the bias, and {layer.name} has none; type bias=True")
        if layer.num_calls > 1:
            raise UsageError(
                f"whiten_after_step gives a layer one mean and variance, and {layer.name} runs {layer.num_calls} times "
                "a pass; leave it out of the model, or train without whiten_after_step"
            )
