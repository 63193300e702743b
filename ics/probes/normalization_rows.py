"""Rows of the table `normalization`: one per call of a normalisation, merged over the passes of a step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ics.probes.names import kind_of
from ics.probes.normalization import (
    BatchStatistics,
    batch_statistics,
    is_plain_batchnorm,
    merge_batches,
    sum_of_squares,
    theorem_error,
    theorem_terms,
    uses_batch_statistics,
)
from ics.probes.sites import Normalization

_TORCH_BACKWARD = ("BatchNorm", "LayerNorm", "GroupNorm")


class NormalizationRow:
    """What one call of a normalisation did to its batch and to the gradient.

    Under gradient accumulation the batch's mean and variance are those of all micro-batches together, and the terms
    of Theorem 4.1, which holds for each micro-batch by itself, are summed over them.
    """

    def __init__(self, normalization: Normalization) -> None:
        self.normalization = normalization
        self._batch: BatchStatistics | None = None
        self._running: dict[str, Tensor | None] = {}
        self._affine: dict[str, Tensor | None] = {}
        self._terms: dict[str, Tensor] = {}
        self._input_gradient_squared: Tensor | None = None
        self._needs_gradient = False

    def add_forward(self, batch: BatchStatistics | None, *, needs_gradient: bool) -> None:
        """Take a forward pass into account, right after it: running statistics are advanced, gamma is not."""
        module = self.normalization.module
        self._batch = batch if self._batch is None or batch is None else merge_batches(self._batch, batch)
        self._running = {name: _copy(module._buffers.get(name)) for name in ("running_mean", "running_var")}
        self._affine = {name: _copy(module._parameters.get(name)) for name in ("weight", "bias")}
        self._needs_gradient |= needs_gradient

    def add_output_gradient(self, gradient: Tensor, x: Tensor, batch: BatchStatistics | None) -> None:
        """Take dL/d(output) of one pass into account."""
        module: Any = self.normalization.module
        if batch is None or not uses_batch_statistics(module):
            terms = {"output_gradient_squared": sum_of_squares(gradient)}
        else:
            terms = theorem_terms(gradient, x, batch, weight=_copy(module._parameters.get("weight")), eps=module.eps)
        self._terms = {name: _plus(self._terms.get(name), value) for name, value in terms.items()}

    def add_input_gradient(self, gradient: Tensor) -> None:
        """Take dL/d(input), as this normalisation alone sends it back, into account."""
        self._input_gradient_squared = _plus(self._input_gradient_squared, sum_of_squares(gradient))

    def cells(self, order: dict[str, int], *, per_channel: bool = True) -> dict[str, Any]:
        """Return the row, with the bias gradient as it is now in `.grad`; without `per_channel` no list columns."""
        seen, measured = self.normalization, self._input_gradient_squared
        complete = measured is not None and "mean_term" in self._terms
        cells: dict[str, Any] = {
            "layer": seen.layer,
            "layer_index": order[seen.layer],
            "call": seen.call,
            "kind": kind_of(seen.module),
            "of_layer": seen.of_layer,
            "count": None if self._batch is None else self._batch.count,
            "channel_batch_mean": None if self._batch is None else self._batch.mean,
            "channel_batch_variance": None if self._batch is None else self._batch.variance,
            "channel_running_mean": self._running.get("running_mean"),
            "channel_running_variance": self._running.get("running_var"),
            "channel_weight": self._affine.get("weight"),
            "channel_bias": self._affine.get("bias"),
            **self._terms,
            "input_gradient_squared": measured,
            "theorem_error": theorem_error(self._terms, measured) if complete and measured is not None else None,
            "bias_before_gradient_norm": _bias_gradient_norm(seen.of),
        }
        cells["null_reason"] = "; ".join(self._reasons(cells)) or None
        return {name: cell for name, cell in cells.items() if per_channel or not name.startswith("channel_")}

    def _reasons(self, cells: dict[str, Any]) -> list[str]:
        module, of = self.normalization.module, self.normalization.of
        reasons = []
        if cells["of_layer"] is None:
            reasons.append("it follows no layer directly")
        elif cells["bias_before_gradient_norm"] is None:
            reasons.append("the layer in front has no bias" if _bias(of) is None else "that bias has no gradient")
        if cells["count"] is None:
            reasons.append("only BatchNorm has the statistics of a batch and the terms of Theorem 4.1")
        elif not uses_batch_statistics(module):
            reasons.append("in eval mode Theorem 4.1 does not apply")
        if cells["channel_running_mean"] is None:
            reasons.append("no running statistics are kept")
        if cells["channel_weight"] is None or cells["channel_bias"] is None:
            reasons.append("gamma or beta is not there")
        if not self._terms or self._input_gradient_squared is None:
            reasons.append(self._missing_gradient())
        return reasons

    def _missing_gradient(self) -> str:
        if not self._needs_gradient:
            return "its input and output need no gradient"
        if not self._terms:
            return "no backward pass reached it while the probes were armed"
        return "its input needs no gradient, or is not normalised by torch's own function"


def statistics_of(module: nn.Module, x: Tensor) -> BatchStatistics | None:
    """Return the batch statistics that BatchNorm takes of its input; None for any other normalisation."""
    return batch_statistics(x) if is_plain_batchnorm(module) and x.numel() else None


def is_torch_backward(name: str) -> bool:
    """Return whether the backward node called `name` is the one of a normalisation, its first input dL/d(input).

    A tensor hook on the input would also count what other readers of the same tensor send back, such as a shortcut.
    """
    return any(kind in name for kind in _TORCH_BACKWARD)


def _bias(module: nn.Module | None) -> Tensor | None:
    bias = getattr(module, "bias", None)
    return bias if isinstance(bias, Tensor) else None


def _bias_gradient_norm(module: nn.Module | None) -> Tensor | None:
    bias = _bias(module)
    return None if bias is None or bias.grad is None else sum_of_squares(bias.grad.detach()).sqrt()


def _copy(value: Tensor | None) -> Tensor | None:
    """Copy now, as the optimizer or the next pass will write to it; list columns have one axis."""
    return None if value is None else value.detach().clone().reshape(-1)


def _plus(total: Tensor | None, value: Tensor) -> Tensor:
    return value if total is None else total + value
