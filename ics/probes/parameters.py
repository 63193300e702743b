"""Norms and moments of parameters, their gradients and their updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ics import stats
from ics.records import BOUNDED, PACKED, PACKED_CHANNELS, Block, Layer


@torch.no_grad()
def parameter_block(
    layers: Sequence[Layer],
    *,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
    histogram: bool = True,
    per_channel: bool = True,
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

    Cost: no forward or backward pass; a few passes over the parameters.
    """
    keys = [(layer, name) for layer in layers for name in layer.parameters]
    rows: list[dict[str, Any]] = [
        {"layer": layer.name, "layer_index": layer.index, "call": 0, "of": name, "kind": "parameter", BOUNDED: False}
        | _gradient(gradients.get(name), histogram, per_channel)
        for layer, name in keys
    ]
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    return Block("gradients", columns | _norms([name for _, name in keys], before, after, gradients))


def _norms(
    names: Sequence[str],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
) -> dict[str, list[Tensor | None]]:
    """Return the columns of norms, measured for all parameters in one go."""
    sizes = stats.norms([before[name] for name in names])
    updates = stats.distances([after[name] for name in names], [before[name] for name in names])
    there = [gradient for name in names if (gradient := gradients.get(name)) is not None]
    norms = iter(stats.norms(there).unbind())
    return {
        "parameter_norm": list(sizes.unbind()),
        "update_norm": list(updates.unbind()),
        "update_ratio": list((updates / sizes).unbind()),
        "gradient_norm": [None if gradients.get(name) is None else next(norms) for name in names],
    }


def _gradient(gradient: Tensor | None, histogram: bool, per_channel: bool) -> dict[str, Any]:
    if gradient is None:
        return {"null_reason": "no gradient reached the optimizer"}
    has_channels = gradient.ndim > 1
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    matrix = gradient if has_channels else gradient.reshape(-1, 1)
    reduced = stats.reduce(matrix, channel_axis=0 if has_channels else 1, histogram=histogram)
    packed = PACKED_CHANNELS if has_channels and per_channel else PACKED
    return {packed: reduced.moments, "histogram": reduced.histogram}
