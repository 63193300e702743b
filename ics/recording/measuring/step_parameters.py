"""The parameters around one optimizer step: their values before it, the gradients it used, and their statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ics import stats
from ics.probes import GradientNumbers, ParameterNumbers, ParameterWatch, parameter_block, parameter_rows
from ics.records import Block, Layer


class StepParameters:
    """Keeps W(t) when it is created, and the gradients when the optimizer steps.

    If only statistics of the gradients are wanted, they are measured in place as the optimizer steps. They are cloned
    only if an evaluation is compared with them, or if the kernels cannot measure them.

    Args:
        watch: the parameters of the model, from step to step.
        optimizer: the optimizer that takes the step; None reads `.grad` as it is after the block.
        rows: options `histogram` and `per_channel` of rows of the table `gradients`; None for no rows.
        replays: whether the loss is evaluated at other parameters, which needs W(t) and the gradients themselves.
    """

    def __init__(
        self,
        watch: ParameterWatch,
        optimizer: torch.optim.Optimizer | None,
        *,
        rows: Mapping[str, bool] | None,
        replays: bool,
    ) -> None:
        self.before = watch.keep(until_next=not replays)
        self._watch = watch
        self._optimizer = optimizer
        self._rows = rows
        self._replays = replays
        self._used: dict[str, Tensor | None] | None = None
        self._measured: GradientNumbers | None = None
        self._numbers: ParameterNumbers | None = None
        self._failure: Exception | None = None

    def optimizer_steps(self) -> None:
        """Read the gradients as the optimizer steps: by now they are accumulated, unscaled and clipped.

        An error is kept until an instrument asks for the gradients. Raised here, it would end the user's training.
        """
        try:
            self._used = self._measured = None
            scale = getattr(self._optimizer, "grad_scale", None)  # fused optimizers unscale inside their kernel
            used = {name: parameter.grad for name, parameter in self._watch.named().items()}
            if self._rows is not None and scale is None and not self._replays:
                self._measured = self._watch.gradients(used, **self._rows)
            if self._measured is None:
                self._used = {name: None if each is None else _unscaled(each, scale) for name, each in used.items()}
        except Exception as error:
            self._failure = error

    def gradients(self) -> dict[str, Tensor | None]:
        """Return gradients as the optimizer used them; without an optimizer, as left in `.grad`."""
        if self._failure is not None:
            raise self._failure
        if self._optimizer is not None:
            return self._used or {}
        return {name: parameter.grad for name, parameter in self._watch.named().items()}

    def after(self) -> dict[str, Tensor]:
        """Return the parameters as they are now."""
        return {name: value.detach() for name, value in self._watch.named().items()}

    def norms(self) -> dict[str, Tensor | float | None]:
        """Return gradient and update norm of the whole step, and the regulariser that weight decay stands for."""
        if (numbers := self._taken_together()) is not None:
            squares = numbers.gradients.squares
            return {
                "gradient_norm": None if squares is None else math.sqrt(squares),
                "update_norm": math.sqrt(numbers.changes.sum()),
                "regulariser": self._regulariser(lambda name: float(numbers.squares[numbers.place[name]]), math.fsum),
            }
        after = self.after()
        gradients = [gradient for gradient in self.gradients().values() if gradient is not None]
        return {
            "gradient_norm": stats.norm(gradients) if gradients else None,
            "update_norm": stats.distance([after[name] for name in self.before], list(self.before.values())),
            "regulariser": self._regulariser(lambda name: stats.norm([self.before[name]]) ** 2, _total),
        }

    def rows(self, layers: Sequence[Layer]) -> Block:
        """Return rows of `gradients` for the parameters of the layers."""
        if (numbers := self._taken_together()) is not None:
            return parameter_rows(layers, numbers)
        return parameter_block(
            layers, before=self.before, after=self.after(), gradients=self.gradients(), **self._rows or {}
        )

    def _taken_together(self) -> ParameterNumbers | None:
        """Return the numbers of all parameters at once; None if no rows are wanted or the kernels cannot take them."""
        if self._numbers is None and self._rows is not None:
            if self._measured is None:
                self._measured = self._watch.gradients(self.gradients(), **self._rows)
            if self._measured is not None:
                self._numbers = self._watch.numbers(self.before, self._measured)
        return self._numbers

    def _regulariser(self, square: Callable[[str], Any], total: Callable[[list[Any]], Any]) -> Any:
        """Return the sum of weight decay / 2 times `square(name)`, ||W(t)||^2, over the optimizer's parameters."""
        if self._optimizer is None:
            return None
        # By identity: the optimizer does not know names, and `==` of tensors compares their values.
        names = {id(parameter): name for name, parameter in self._watch.named().items()}
        terms = [
            0.5 * group.get("weight_decay", 0.0) * square(names[id(parameter)])
            for group in self._optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in names
        ]
        return total(terms) if terms else None


def learning_rate(optimizer: torch.optim.Optimizer | None) -> float | None:
    """Return the learning rate of the first parameter group; None without an optimizer."""
    if optimizer is None:
        return None
    return float(optimizer.param_groups[0]["lr"])


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()


def _unscaled(gradient: Tensor, scale: Tensor | None) -> Tensor:
    return gradient.detach().clone() if scale is None else gradient.detach() / scale
