"""Is the loss that is measured the loss that is trained, and is it the same when it is evaluated again?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ics import stats

AgreementVerdict = Literal["equal", "proportional", "different", "undefined"]


@dataclass(frozen=True)
class Agreement:
    """How an objective's gradient compares with the one that training used.

    Attributes:
        verdict: "equal"; "proportional", as after gradient clipping or where the loop scales the loss; "different";
            "undefined" where a gradient is not finite.
        scale: factor s that brings the objective's gradient g closest to training's t, s = <g, t> / <g, g>.
        difference: ||t - g|| / ||t||.
        repeated_difference: ||g - g_again|| / ||g|| of two evaluations at the same point; 0 for a deterministic model.
        tolerance: relative difference up to which gradients count as equal: the square root of the resolution of
            their coarsest dtype.
        situation: what in the loop may explain a difference, if anything is known to.
    """

    verdict: AgreementVerdict
    scale: float
    difference: float
    repeated_difference: float
    tolerance: float
    situation: str | None = None

    @property
    def deterministic(self) -> bool:
        """Whether two evaluations agree bit for bit."""
        return self.repeated_difference == 0

    @property
    def warning(self) -> str | None:
        """What the user must know, in one sentence; None if all is well."""
        if self.verdict == "undefined":
            return None
        if self.repeated_difference > self.tolerance:
            return (
                "the model is not deterministic under replay: two evaluations at the same parameters differ by "
                f"{self.repeated_difference:.1e} of the gradient, and shifts of that size are noise; draw random "
                "numbers from torch's generators, or type torch.use_deterministic_algorithms(True)"
            )
        if self.verdict == "different":
            advice = "make loss_fn the loss of the loop, regulariser and autocast included"
            return (
                f"the gradient of loss_fn differs from the one training used by {self.difference:.1e} of its norm, so "
                f"another loss is measured than is trained; {self.situation or advice}"
            )
        if self.verdict == "proportional" and self.scale > 1 + self.tolerance:
            return (  # clipping only shortens
                f"training used {self.scale:.6g} times the gradient of loss_fn, which no clipping explains, so every "
                "shift is of another scale; let loss_fn return the loss that the loop trains"
            )
        return None

    def describe(self) -> str:
        """Return the comparison as a sentence for the run's record."""
        if self.verdict == "undefined":
            return "gradient of loss_fn or the one training used is not finite, so they do not compare"
        again = "bit for bit" if self.deterministic else f"up to {self.repeated_difference:.1e}"
        factor = f" (training's is {self.scale:.6g} times it)" if self.verdict == "proportional" else ""
        return (
            f"gradient of loss_fn is {self.verdict} to the one training used{factor}, relative difference "
            f"{self.difference:.1e}; evaluated again it agrees {again}"
        )


def compare(
    measured: Mapping[str, Tensor | None],
    again: Mapping[str, Tensor | None],
    used: Mapping[str, Tensor | None],
) -> Agreement:
    """Compare a gradient with the same evaluated again and with the one used for training.

    A gradient that is None, or that `measured` lacks, counts as zeros. A parameter that `used` does not name is left
    out: what training did with it is not known (another optimizer holds it).

    Example:
        >>> gradient = {"weight": torch.tensor([3.0, 4.0])}
        >>> compare(gradient, gradient, {"weight": torch.tensor([1.5, 2.0])}).verdict
        'proportional'
    """
    names = [name for name in used if _has_gradient(name, measured, used)]
    g, g_again, t = (_filled(names, gradients, measured, used) for gradients in (measured, again, used))
    squares, size = float(stats.dot(g, g)), float(stats.norm(t))
    # Least squares: clipping and loss scaling multiply the whole gradient by one number, which this finds.
    scale = float(stats.dot(g, t)) / squares if squares else 1.0
    tolerance = max((torch.finfo(tensor.dtype).eps ** 0.5 for tensor in g), default=0.0)
    difference = _ratio(float(stats.distance(g, t)), size)
    left_over = _ratio(float(stats.distance([scale * tensor for tensor in g], t)), size)
    finite = math.isfinite(size) and math.isfinite(squares)
    verdict = _verdict(scale, difference, left_over, tolerance) if finite else "undefined"
    return Agreement(verdict, scale, difference, _ratio(float(stats.distance(g, g_again)), squares**0.5), tolerance)


def _verdict(scale: float, difference: float, left_over: float, tolerance: float) -> AgreementVerdict:
    if difference <= tolerance:
        return "equal"
    return "proportional" if scale > 0 and left_over <= tolerance else "different"


def _has_gradient(name: str, *gradients: Mapping[str, Tensor | None]) -> bool:
    return any(each.get(name) is not None for each in gradients)


def _filled(
    names: list[str], gradients: Mapping[str, Tensor | None], *others: Mapping[str, Tensor | None]
) -> list[Tensor]:
    filled = []
    for name in names:
        value = gradients.get(name)
        like = next(found for each in others if (found := each.get(name)) is not None)
        filled.append(torch.zeros_like(like) if value is None else value)
    return filled


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else float("inf")
