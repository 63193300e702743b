"""One update of the parameters, W(t) to W(t+1), with the loss it was made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ics.errors import UsageError, unknown_name
from ics.landscape.objective import Objective

# Gradient by parameter name; None where the loss does not depend on the parameter.
ParameterGradients = Mapping[str, Tensor | None]


@dataclass(frozen=True)
class Transition:
    """One update of the parameters. Measurements are functions of it and change none of its tensors.

    Attributes:
        objective: the loss of the batch that the update was made from.
        before: W(t), a value for every parameter.
        after: W(t+1), whatever the optimizer made of it.
        gradients: gradients of the objective at W(t); None where the loss does not depend on a parameter.
        loss: the objective at W(t).
        learning_rate: learning rate of the update, if it is known.
        second: the loss of another batch, for the noise floor.
    """

    objective: Objective
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    gradients: ParameterGradients
    loss: Tensor
    learning_rate: float | None = None
    second: Objective | None = None


def make_transition(
    objective: Objective,
    *,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    second: Objective | None = None,
    learning_rate: float | None = None,
) -> Transition:
    """Evaluate the objective at W(t) and return the transition to W(t+1).

    Args:
        objective: the loss of the batch that the update was made from.
        before: a value for every parameter, by its name in `named_parameters`.
        after: values after the update; parameters left out did not move.
        second: the loss of another batch, for the noise floor.
        learning_rate: learning rate of the update.

    Cost: one forward-backward pass.

    Raises:
        LossError: the objective is not one number that depends on the parameters.
        SelectionError: a name that is no parameter.
        UsageError: a value of another shape, or a parameter without a value.

    Example:
        >>> objective = Objective(torch.nn.Linear(2, 1), lambda model, x: model(x).sum(), torch.ones(3, 2))
        >>> before = objective.parameters
        >>> transition = make_transition(objective, before=before, after={"bias": before["bias"] - 1})
        >>> transition.gradients["bias"]
        tensor([3.])
    """
    for name, value in after.items():
        if name not in before:
            raise unknown_name("parameter", name, before)
        if value.shape != before[name].shape:
            raise UsageError(
                f"{name} is expected to have shape {tuple(before[name].shape)} after the update, got "
                f"{tuple(value.shape)}; pass the parameters of the same model"
            )
    here = objective(before)
    return Transition(
        objective=objective,
        before=dict(before),
        after={name: after.get(name, value) for name, value in before.items()},
        gradients=here.gradients,
        loss=here.loss,
        learning_rate=learning_rate,
        second=second,
    )


def vector(gradients: ParameterGradients, names: Iterable[str], *, like: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the gradients of `names` as one vector; where the loss does not depend on a parameter, zeros."""
    found = [(gradients.get(name), like[name]) for name in names]
    return [torch.zeros_like(value) if gradient is None else gradient for gradient, value in found]
