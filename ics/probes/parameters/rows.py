"""Norms and moments of parameters, their gradients and their updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ics import stats
from ics.probes.parameters.kernels import GradientNumbers, ParameterNumbers
from ics.records import BOUNDED, PACKED, PACKED_CHANNELS, Block, Layer
from ics.tensor_statistics import TENSOR_STATISTICS

NO_GRADIENT = "no gradient reached the optimizer"
_COMPLEX = "complex numbers have no order and no moments here; their norms are measured"


@torch.no_grad()
def parameter_block(
    layers: Sequence[Layer],
    *,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
    histogram: bool = True,
    per_channel: bool = True,
    reason: Callable[[str], str] = lambda _: NO_GRADIENT,
) -> Block:
    """Norms of every parameter, its gradient and its update, and the moments of the gradient.

    update_ratio = ||W(t+1) - W(t)|| / ||W(t)||. Rows of the table `gradients` with kind "parameter"; channels are
    the first axis (output units) of parameters with two axes or more.

    Args:
        layers: the layers whose parameters are wanted.
        before: parameter values before the step.
        after: parameter values after the step.
        gradients: gradient of each parameter as the optimizer used it; None where it has none.
        histogram: whether to take the histogram of the gradient.
        per_channel: whether to keep the channels' columns.
        reason: why a parameter has no gradient, where it has none.

    Cost: no forward or backward pass; a few passes over the parameters.
    """
    keys = [(layer, name) for layer in layers for name in layer.parameters]
    rows: list[dict[str, Any]] = [
        {"layer": layer.name, "layer_index": layer.index, "call": 0, "of": name, "kind": "parameter", BOUNDED: False}
        | _gradient(gradients.get(name), histogram, per_channel, partial(reason, name))
        for layer, name in keys
    ]
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    return Block("gradients", columns | _norms([name for _, name in keys], before, after, gradients))


def parameter_rows(
    layers: Sequence[Layer], numbers: ParameterNumbers, *, reason: Callable[[str], str] = lambda _: NO_GRADIENT
) -> Block:
    """Return the rows of `parameter_block` from numbers on the host.

    Statistics of all values of a gradient are cells of their columns, those per channel packed as in `ics.records`.
    """
    names = [name for layer in layers for name in layer.parameters]
    places = [numbers.place[name] for name in names]
    sizes, updates = np.sqrt(numbers.squares[places]).tolist(), np.sqrt(numbers.changes[places]).tolist()
    columns = _keys(layers) | {
        "parameter_norm": sizes,
        "update_norm": updates,
        "update_ratio": _quotients(updates, sizes),
    }
    own = [numbers.gradients.place.get(name) for name in names]
    columns |= _of_gradients(numbers.gradients, own)
    columns["null_reason"] = [reason(name) if place is None else None for name, place in zip(names, own, strict=True)]
    return Block("gradients", columns)


def _keys(layers: Sequence[Layer]) -> dict[str, list[Any]]:
    keys = [(layer.name, layer.index, 0, name, "parameter") for layer in layers for name in layer.parameters]
    columns = [list(cells) for cells in zip(*keys, strict=True)] or [[], [], [], [], []]
    return dict(zip(("layer", "layer_index", "call", "of", "kind"), columns, strict=True))


def _of_gradients(numbers: GradientNumbers, own: Sequence[int | None]) -> dict[str, list[Any]]:
    """Return the columns of the gradients: row i is that of gradient number `own[i]`, null where there is none."""
    found = numbers.statistics
    if found is None:
        return {"gradient_norm": [None] * len(own)}
    columns: dict[str, Sequence[Any]] = {"gradient_norm": np.sqrt(found.squares).tolist()}
    if numbers.per_channel:
        columns |= _packed(numbers, found.moments())
    else:
        columns |= _pooled(found.pooled())
    if found.buckets is not None and found.counts is not None:
        columns |= {"histogram_bucket": found.buckets, "histogram": found.counts}
    return {name: [None if place is None else cells[place] for place in own] for name, cells in columns.items()}


def _packed(numbers: GradientNumbers, moments: Sequence[Tensor]) -> dict[str, Sequence[Any]]:
    cells = list(zip(moments, numbers.has_channels, strict=True))
    return {
        BOUNDED: [False] * len(cells),
        PACKED: [None if has_channels else each for each, has_channels in cells],
        PACKED_CHANNELS: [each if has_channels else None for each, has_channels in cells],
    }


def _pooled(moments: np.ndarray) -> dict[str, Sequence[Any]]:
    """Return the columns of packed statistics (rows, n), as `ics.stats.columns_of` does of tensors."""
    rows = dict(zip(stats.PACKED, moments, strict=True))
    columns = {}
    with np.errstate(invalid="ignore"):  # 0 / 0 of no finite values, which the host makes null with its reason
        for each in TENSOR_STATISTICS:
            if not each.needs_asymptotes:
                cells = rows[each.name] if each.average is None else rows[each.name] / rows["count"]
                columns[each.column] = (cells if each.is_real else cells.astype(np.int64)).tolist()
    return columns


def _norms(
    names: Sequence[str],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
) -> dict[str, list[Any]]:
    """Return the columns of norms, measured for all parameters in one go."""
    sizes = stats.norms([before[name] for name in names])
    updates = stats.distances([after[name] for name in names], [before[name] for name in names])
    there = [gradient for name in names if (gradient := gradients.get(name)) is not None]
    norms = iter(stats.norms(there).unbind())
    return {
        "parameter_norm": list(sizes.unbind()),
        "update_norm": list(updates.unbind()),
        "update_ratio": _ratios(updates, sizes),
        "gradient_norm": [None if gradients.get(name) is None else next(norms) for name in names],
    }


def _ratios(updates: Tensor, sizes: Tensor) -> list[Any]:
    """Return the update ratios; null for parameters that are zero, where that can be known without waiting."""
    if sizes.is_cpu:
        return _quotients(updates.tolist(), sizes.tolist())
    return list((updates / sizes).unbind())


def _quotients(updates: list[float], sizes: list[float]) -> list[float | None]:
    return [update / size if size else None for update, size in zip(updates, sizes, strict=True)]


def _gradient(gradient: Tensor | None, histogram: bool, per_channel: bool, reason: Callable[[], str]) -> dict[str, Any]:
    if gradient is None:
        return {"null_reason": reason()}
    if gradient.is_complex():
        return {"null_reason": _COMPLEX}
    has_channels = gradient.ndim > 1
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    matrix = gradient if has_channels else gradient.reshape(-1, 1)
    reduced = stats.reduce(matrix, channel_axis=0 if has_channels else 1, histogram=histogram)
    packed = PACKED_CHANNELS if has_channels and per_channel else PACKED
    return {packed: reduced.moments, "histogram": reduced.histogram}
