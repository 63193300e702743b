"""Rows of the table `normalization`: one per call of a normalisation, merged over the passes of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ics import stats
from ics.probes.counted_passes import NOT_REACHED
from ics.probes.following.site_statistics import make_block
from ics.probes.following.tracker import Normalization
from ics.probes.normalization.terms import (
    TERMS,
    BatchStatistics,
    batch_statistics,
    is_plain_batchnorm,
    merge_batches,
    sum_of_squares,
    theorem_error,
    theorem_terms,
    uses_batch_statistics,
)
from ics.probes.structure.names import kind_of
from ics.records import Block

_TORCH_BACKWARD = ("BatchNorm", "LayerNorm", "GroupNorm")


class NormalizationRow:
    """What one call of a normalisation did to its batch and to the gradient.

    Under gradient accumulation the batch's mean and variance are those of all micro-batches together, and the terms
    of Theorem 4.1, which holds for each micro-batch by itself, are summed over them.

    Args:
        normalization: the call.
        per_channel: whether there will be columns per channel.
        reason: why nothing could be measured, if nothing could.
    """

    def __init__(self, normalization: Normalization, *, per_channel: bool = True, reason: str | None = None) -> None:
        self.normalization = normalization
        self.per_channel = per_channel
        self._reason = reason
        self._count: int | None = None
        self._batch: BatchStatistics | None = None
        self._running: dict[str, Tensor | None] = {}
        self._affine: dict[str, Tensor | None] = {}
        self._terms: dict[str, Any] = {}
        self._input_gradient_squared: Any = None
        self._needs_gradient = False
        self._void: str | None = None

    def add_forward(self, batch: BatchStatistics | None, *, needs_gradient: bool) -> None:
        """Take a forward pass into account, right after it: running statistics are advanced, gamma is not."""
        self.add_call(None if batch is None else batch.count, needs_gradient=needs_gradient)
        if batch is not None:
            self.add_batch(batch)

    def add_call(self, count: int | None, *, needs_gradient: bool) -> None:
        """Take a forward pass into account, right after it, whose batch statistics come later."""
        module, keep = self.normalization.module, _copy if self.per_channel else _same
        self._count = count if self._count is None or count is None else self._count + count
        self._running = {name: keep(module._buffers.get(name)) for name in ("running_mean", "running_var")}
        self._affine = {name: keep(module._parameters.get(name)) for name in ("weight", "bias")}
        self._needs_gradient |= needs_gradient

    def add_batch(self, batch: BatchStatistics) -> None:
        """Take the mean and variance of a batch into account."""
        self._batch = batch if self._batch is None else merge_batches(self._batch, batch)

    def add_output_gradient(self, gradient: Tensor, x: Tensor, batch: BatchStatistics | None) -> None:
        """Take dL/d(output) of one pass into account."""
        module: Any = self.normalization.module
        if batch is None or not uses_batch_statistics(module):
            self.add_terms({TERMS[0]: sum_of_squares(gradient)})
            return
        sums = stats.backward_sums(x, gradient, channel_axis=1)
        terms = theorem_terms(sums, count=batch.count, weight=_same(module._parameters.get("weight")), eps=module.eps)
        self.add_terms(dict(zip(TERMS, terms.sum(1).unbind(), strict=True)))

    def add_input_gradient(self, gradient: Tensor) -> None:
        """Take dL/d(input), as this normalisation alone sends it back, into account."""
        self.add_input_gradient_squared(sum_of_squares(gradient))

    def add_terms(self, terms: Mapping[str, Any]) -> None:
        """Take terms of Theorem 4.1, or sum ||g||^2 alone, of one pass into account."""
        self._terms = {name: _plus(self._terms.get(name), value) for name, value in terms.items()}

    def add_input_gradient_squared(self, value: Any) -> None:
        """Take ||dL/d(input)||^2 of one pass into account."""
        self._input_gradient_squared = _plus(self._input_gradient_squared, value)

    def forget_gradients(self) -> None:
        """Drop what backward passes showed so far: they do not count."""
        self._terms, self._input_gradient_squared = {}, None

    def void_gradients(self, reason: str | None) -> None:
        """Make what backward passes show null, if there is a reason to."""
        if reason is not None:
            self.forget_gradients()
            self._void = reason

    @property
    def sides(self) -> tuple[Any, ...] | None:
        """The terms of Theorem 4.1 and the measured ||dL/d(input)||^2; None if one of them is not there."""
        if self._input_gradient_squared is None or "mean_term" not in self._terms:
            return None
        return *(self._terms[name] for name in TERMS), self._input_gradient_squared

    @property
    def bias_before(self) -> Tensor | None:
        """The bias in front of the normalisation."""
        return _bias(self.normalization.of)

    def cells(self, order: Mapping[str, int]) -> dict[str, Any]:
        """Return the row but for what is measured of all rows together, and the reason."""
        seen = self.normalization
        cells: dict[str, Any] = {
            "layer": seen.layer,
            "layer_index": order[seen.layer],
            "call": seen.call,
            "kind": kind_of(seen.module),
            "of_layer": seen.of_layer,
            "count": self._count,
            **self._terms,
            "input_gradient_squared": self._input_gradient_squared,
        }
        if self.per_channel:
            cells |= {
                "channel_batch_mean": None if self._batch is None else self._batch.mean,
                "channel_batch_variance": None if self._batch is None else self._batch.variance,
                "channel_running_mean": self._running.get("running_mean"),
                "channel_running_variance": self._running.get("running_var"),
                "channel_weight": self._affine.get("weight"),
                "channel_bias": self._affine.get("bias"),
            }
        return cells

    def reasons(self, *, has_bias_gradient: bool) -> str | None:
        """Return why cells of the row are null; None if none is."""
        return self._reason or "; ".join(self._reasons(has_bias_gradient)) or None

    def _reasons(self, has_bias_gradient: bool) -> list[str]:
        module = self.normalization.module
        reasons = []
        if self.normalization.of_layer is None:
            reasons.append("it follows no layer directly")
        elif not has_bias_gradient:
            reasons.append(
                "the layer in front has no bias" if self.bias_before is None else "that bias has no gradient"
            )
        if self._count is None:
            reasons.append("only BatchNorm has the statistics of a batch and the terms of Theorem 4.1")
        elif not uses_batch_statistics(module):
            reasons.append("in eval mode Theorem 4.1 does not apply")
        if self._running.get("running_mean") is None:
            reasons.append("no running statistics are kept")
        if self._affine.get("weight") is None or self._affine.get("bias") is None:
            reasons.append("gamma or beta is not there")
        if not self._terms or self._input_gradient_squared is None:
            reasons.append(self._missing_gradient())
        return reasons

    def _missing_gradient(self) -> str:
        if not self._needs_gradient:
            return "its input and output need no gradient"
        if self._void is not None:
            return self._void
        if not self._terms:
            return NOT_REACHED
        return "its input needs no gradient, or is not normalised by torch's own function"


def normalization_block(rows: Sequence[NormalizationRow], order: Mapping[str, int], *, empty: bool = False) -> Block:
    """Lay rows out as the table `normalization`, with the bias gradients as they are now in `.grad`.

    Args:
        rows: the rows.
        order: layers to their numbers.
        empty: whether nothing could be measured.
    """
    cells = [row.cells(order) for row in rows]
    if empty:
        for row, own in zip(rows, cells, strict=True):
            own["null_reason"] = row.reasons(has_bias_gradient=False)
        return make_block("normalization", cells)
    complete = [(number, sides) for number, row in enumerate(rows) if (sides := row.sides) is not None]
    if complete:
        table = _table([sides for _, sides in complete])
        for (number, _), error in zip(complete, numbers(theorem_error(table[:4], table[4])), strict=True):
            cells[number]["theorem_error"] = error
    biases = [(number, row.bias_before) for number, row in enumerate(rows)]
    graded = [(number, bias.grad) for number, bias in biases if bias is not None and bias.grad is not None]
    for (number, _), norm in zip(graded, numbers(stats.norms([each for _, each in graded])), strict=True):
        cells[number]["bias_before_gradient_norm"] = norm
    for row, own in zip(rows, cells, strict=True):
        own["null_reason"] = row.reasons(has_bias_gradient="bias_before_gradient_norm" in own)
    return make_block("normalization", cells)


def numbers(values: Tensor) -> list[Any]:
    """Return the numbers of a vector: of Python where that waits for no device, else tensors on it."""
    return values.tolist() if values.is_cpu else list(values.unbind())


def statistics_of(module: nn.Module, x: Tensor) -> BatchStatistics | None:
    """Return the batch statistics that BatchNorm takes of its input; None for any other normalisation."""
    return batch_statistics(x) if is_plain_batchnorm(module) and x.numel() else None


def is_torch_backward(name: str) -> bool:
    """Return whether the backward node called `name` is the one of a normalisation, its first input dL/d(input).

    A tensor hook on the input would also count what other readers of the same tensor send back, such as a shortcut.
    """
    return any(kind in name for kind in _TORCH_BACKWARD)


def _table(sides: Sequence[tuple[Any, ...]]) -> Tensor:
    """Return the sides of the theorem of all rows, (5, rows), in float64."""
    if isinstance(sides[0][0], Tensor):
        device = sides[0][0].device
        return torch.stack([torch.stack([value.to(device) for value in own]) for own in zip(*sides, strict=True)])
    return torch.tensor(list(zip(*sides, strict=True)), dtype=torch.float64)


def _bias(module: nn.Module | None) -> Tensor | None:
    bias = getattr(module, "bias", None)
    return bias if isinstance(bias, Tensor) else None


def _copy(value: Tensor | None) -> Tensor | None:
    """Copy now, as the optimizer or the next pass will write to it; list columns have one axis."""
    return None if value is None else value.detach().clone().reshape(-1)


def _same(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach()


def _plus(total: Any, value: Any) -> Any:
    return value if total is None else total + value
