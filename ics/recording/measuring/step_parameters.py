"""The parameters around one optimizer step: their values before it, the gradients it used, and their statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ics import stats
from ics.probes import GradientNumbers, ParameterNumbers, ParameterWatch, parameter_block, parameter_rows
from ics.probes.parameters.rows import NO_GRADIENT
from ics.recording.optimizers import Optimizers, OptimizerSteps
from ics.records import Block, Layer


class StepParameters:
    """Keeps W(t) when it is made, and gradients when optimizers step.

    If only statistics of the gradients are wanted, they are measured in place as the optimizer steps. They are cloned
    only if an evaluation is compared with them, or if the kernels cannot measure them.

    Args:
        watch: the parameters of the model, from step to step.
        optimizers: whose steps these are; with none, gradients are `.grad` as it is after the block.
        rows: options `histogram` and `per_channel` of rows of the table `gradients`; None if there are to be none.
        replays: whether the loss is evaluated elsewhere, which needs W(t) and gradients themselves.

    Attributes:
        before: W(t).
        steps: the optimizer steps in the block.
    """

    def __init__(
        self,
        watch: ParameterWatch,
        optimizers: Optimizers,
        *,
        rows: Mapping[str, bool] | None,
        replays: bool,
    ) -> None:
        self.before = watch.keep(until_next=not replays)
        self.steps = OptimizerSteps(optimizers, watch.named())
        self._watch = watch
        self._rows = rows
        self._replays = replays
        self._used: dict[str, Tensor | None] = {}
        self._measured: GradientNumbers | None = None
        self._numbers: ParameterNumbers | None = None
        self._failure: Exception | None = None

    def optimizer_steps(self, optimizer: torch.optim.Optimizer) -> None:
        """Called when the gradients of a step are there: accumulated, unscaled and clipped.

        An error is kept until an instrument asks for the gradients. Raised here, it would end the user's training.
        """
        try:
            names = self.steps.take(optimizer)
            scale = getattr(optimizer, "grad_scale", None)  # fused optimizers unscale inside their kernel
            named = self._watch.named()
            used = {name: named[name].grad for name in names}
            alone = len(self.steps.optimizers) == 1
            if used and alone and self._rows is not None and scale is None and not self._replays:
                self._measured = self._watch.gradients(used, **self._rows)
            if self._measured is None:
                self._used |= {name: None if each is None else _unscaled(each, scale) for name, each in used.items()}
        except Exception as error:
            self._failure = error

    def gradients(self) -> dict[str, Tensor | None]:
        """Gradients as the optimizers used them; as left in `.grad` where no optimizer was given."""
        if self._failure is not None:
            raise self._failure
        if self.steps.optimizers:
            return self._used
        return {name: parameter.grad for name, parameter in self._watch.named().items()}

    def moved(self) -> bool:
        """Return whether any parameter is another than before the block. Waits for the device."""
        after = self.after()
        return any(not torch.equal(value, after[name]) for name, value in self.before.items())

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
            return parameter_rows(layers, numbers, reason=self._reason)
        options = self._rows or {}
        gradients = self.gradients()
        return parameter_block(
            layers, before=self.before, after=self.after(), gradients=gradients, reason=self._reason, **options
        )

    def _reason(self, name: str) -> str:
        return self.steps.reason(name, NO_GRADIENT)

    def _taken_together(self) -> ParameterNumbers | None:
        """Return the numbers of all parameters at once; None if no rows are wanted or the kernels cannot take them."""
        if self._numbers is None and self._rows is not None:
            if self._measured is None:
                self._measured = self._watch.gradients(self.gradients(), **self._rows)
            if self._measured is not None:
                self._numbers = self._watch.numbers(self.before, self._measured)
        return self._numbers

    def _regulariser(self, square: Callable[[str], Any], total: Callable[[list[Any]], Any]) -> Any:
        """Return the sum of weight decay / 2 times `square(name)`, ||W(t)||^2, over what the optimizer holds."""
        if not self.steps.optimizers:
            return None
        # By identity: the optimizer does not know names, and `==` of tensors compares their values.
        names = {id(parameter): name for name, parameter in self._watch.named().items()}
        terms = [
            0.5 * group.get("weight_decay", 0.0) * square(names[id(parameter)])
            for optimizer in self.steps.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in names
        ]
        return total(terms) if terms else None


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()


def _unscaled(gradient: Tensor, scale: Tensor | None) -> Tensor:
    return gradient.detach().clone() if scale is None else gradient.detach() / scale
