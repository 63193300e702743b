"""Norms and moments of parameters, their gradients and their updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ics import stats
from ics.records import Block, Layer

_SKIPPED = ("saturated_fraction",)


@torch.no_grad()
def parameter_block(
    layers: Sequence[Layer],
    *,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
    histogram: bool = True,
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

    Cost: no forward or backward pass; a few passes over the parameters.
    """
    rows: list[dict[str, Any]] = []
    for layer in layers:
        for name in layer.parameters:
            row = {"layer": layer.name, "layer_index": layer.index, "call": 0, "of": name, "kind": "parameter"}
            rows.append(row | _norms(before[name], after[name]) | _gradient(gradients.get(name), histogram))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Block("gradients", {name: [row.get(name) for row in rows] for name in names})


def _norms(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    size, update = stats.norm([before]), stats.distance([after], [before])
    return {"parameter_norm": size, "update_norm": update, "update_ratio": update / size}


def _gradient(gradient: Tensor | None, histogram: bool) -> dict[str, Any]:
    if gradient is None:
        return {"null_reason": "no gradient reached the optimizer"}
    matrix = gradient if gradient.ndim > 1 else gradient.reshape(-1, 1)
    columns = stats.columns(stats.channel_moments(matrix, channel_axis=0 if gradient.ndim > 1 else 1))
    kept = {
        name: value
        for name, value in columns.items()
        if name not in _SKIPPED and (not name.startswith("channel_") or (gradient.ndim > 1 and name in _CHANNELS))
    }
    counts = {"histogram": stats.histogram(gradient)} if histogram else {}
    return {"gradient_norm": stats.norm([gradient]), **kept, **counts}


_CHANNELS = ("channel_count", "channel_mean", "channel_m2", "channel_m3", "channel_m4")
