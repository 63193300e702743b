"""Internal covariate shift of every layer (Santurkar et al. 2018, Def. 2.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ics import schema, stats
from ics.errors import UsageError
from ics.landscape.hybrids.autotune import Passes, fastest
from ics.landscape.hybrids.plan import plan_hybrids
from ics.landscape.hybrids.replay.prefix_reuse import prefix_reuse
from ics.landscape.measures.layerwise import NOTHING_TRAINED, chosen_layers, in_order, trained_names
from ics.landscape.measures.linearised import compare_linearised, linearised_shift
from ics.landscape.measures.zero_gradients import cancelled_parameters
from ics.landscape.transition import ParameterGradients, Transition, vector
from ics.records import Block, Layer

_COLUMNS = schema.GRADIENT_SHIFT.measured_columns


def gradient_shift(
    transition: Transition,
    *,
    layers: Sequence[Layer],
    selected: Sequence[Layer] | None = None,
    linearised: bool = False,
    batched: bool = False,
    chunk: int | None = None,
) -> Block:
    """Measure how much each layer's gradient changes because the layers before it were updated.

    G_i  = grad_{W_i} L(W_1(t),   ..., W_k(t))
    G'_i = grad_{W_i} L(W_1(t+1), ..., W_{i-1}(t+1), W_i(t), ..., W_k(t))

    on the same batch with the same random draws. The shift is ||G_i - G'_i||_2; beside it the cosine of G and G', the
    shift relative to ||G_i||, and the noise floor: the same between G and the gradient G_b of a second batch at W(t).
    "Before" means executed before. A parameter that several layers share belongs to the first that uses it.

    Args:
        transition: W(t) to W(t+1), the loss, and the second batch if there is one.
        layers: all layers of the model in the order of execution.
        selected: the layers to measure; default all.
        linearised: also measure how much of each shift its linearisation explains (see `linearised_shift`); without
            it those columns are null.
        batched: also try ways that evaluate several hybrids in one pass (`staircase`, `batched_passes`), which gains
            most on small nets. They round differently, so the last digits then depend on what was faster. Without it
            the result is bit-identical to full passes.
        chunk: keep what the updated net's modules returned for this many consecutive layers at a time, not for all:
            less memory, for (1 + layers / chunk) forward passes more and the same bits.

    Returns:
        Two rows a layer, for its weight and for all its parameters, with the columns of `gradient_shift` but for
        `step`. Norms in loss/weight. A gradient that is zero, exactly or by construction (a bias that the
        normalisation behind it subtracts again), has no direction: cosine and relative shift are null.

    Cost: a forward-backward pass per selected layer before which something moved, or the part of it that comes after
    the layer (docs/benchmarks.md), and one for the floor. With `linearised` those of `linearised_shift` besides.

    Source: Santurkar et al. 2018 (arXiv 1805.11604), Def. 2.1; the floor is not in the paper.

    Raises:
        UsageError: `layers` is not every layer in the order of execution, or `chunk` is no positive number, or stands
            beside `batched`.
        SelectionError: a selected layer, or a layer's parameter, that is not there.

    Example:
        >>> from ics.landscape import Objective, make_transition
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        >>> objective = Objective(model, lambda model, x: model(x).square().sum(), torch.ones(4, 2))
        >>> before = objective.parameters
        >>> after = {name: value - 0.1 for name, value in before.items()}
        >>> layers = [
        ...     Layer(n, i, "Linear", (n,), (f"{n}.weight",), (f"{n}.weight", f"{n}.bias"), (), 0)
        ...     for i, n in enumerate("01")
        ... ]
        >>> block = gradient_shift(make_transition(objective, before=before, after=after), layers=layers)
        >>> block.columns["shift_l2"][:2], block.columns["shift_cosine"][:2]
        ([0.0, 0.0], [1.0, 1.0])
    """
    layers = in_order(layers, measurement="gradient_shift")
    chosen = chosen_layers(layers, selected)
    floor = transition.second is not None
    second = transition.second(transition.before).gradients if transition.second else {}
    rows: list[_ShiftRow] = []
    measured: list[Tensor] = []
    kept: dict[str, ParameterGradients] = {}
    plan = plan_hybrids(transition, layers=layers, selected={layer.name for layer in chosen})
    for layer, shifted in passes_of(batched=batched, chunk=chunk)(plan):
        if linearised:  # otherwise each G' is freed as soon as it is measured
            kept[layer.name] = shifted
        for parameters in schema.PARAMETERS:
            row = _ShiftRow(layer, parameters, trained_names(transition, layer, parameters))
            rows.append(row)
            measured.append(_measure(transition, shifted, second, row.names))
    numbers = torch.stack(measured).tolist() if measured else []  # the one copy to the host
    cells = [_cells(transition, row, values, floor=floor) for row, values in zip(rows, numbers, strict=True)]
    if linearised:
        _add_linearised(cells, transition, kept, layers=layers, selected=chosen)
    return Block("gradient_shift", {column: [each.get(column) for each in cells] for column in _COLUMNS})


def passes_of(*, batched: bool, chunk: int | None) -> Passes:
    """Return the way to G'; raises `UsageError` for options that are none or exclude each other."""
    if chunk is None:
        return partial(fastest, usual=prefix_reuse, exact=not batched)
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise UsageError(
            f"gradient_shift expects chunk= a number of layers, 1 or more, got {chunk!r}; type e.g. chunk=8"
        )
    if batched:
        raise UsageError(
            "gradient_shift expects chunk=, which saves memory, or batched=True, which spends it, got both; "
            "type one of them"
        )
    return partial(prefix_reuse, chunk=chunk)


def _add_linearised(
    cells: Sequence[dict[str, Any]],
    transition: Transition,
    kept: Mapping[str, ParameterGradients],
    *,
    layers: Sequence[Layer],
    selected: Sequence[Layer],
) -> None:
    """Put the columns of `compare_linearised`, whose rows are the same, into the cells of each row."""
    linear = linearised_shift(transition, layers=layers, selected=selected)
    found = compare_linearised(transition, linear, kept, layers=selected)
    for place, row in enumerate(cells):
        reasons = [row.get("null_reason"), found["null_reason"][place]]
        row |= {name: found[name][place] for name in ("linearised_l2", "linearised_cosine", "unexplained_relative")}
        row["null_reason"] = "; ".join(dict.fromkeys(filter(None, reasons))) or None


@dataclass(frozen=True)
class _ShiftRow:
    """What a row is about."""

    layer: Layer
    parameters: str
    names: tuple[str, ...]


def _measure(
    transition: Transition, shifted: ParameterGradients, second: ParameterGradients, names: Sequence[str]
) -> Tensor:
    """Return ||G||, ||G'||, ||G - G'||, cos(G, G'), ||G - G_b||, cos(G, G_b) of one vector, shape (6,)."""
    g, g_shifted, g_second = (
        vector(gradients, names, like=transition.before) for gradients in (transition.gradients, shifted, second)
    )
    if not g:
        return next(iter(transition.before.values())).new_zeros(6, dtype=transition.loss.dtype)
    return torch.stack(
        [
            *(stats.norm(g), stats.norm(g_shifted)),
            *(stats.distance(g, g_shifted), stats.cosine(g, g_shifted)),
            *(stats.distance(g, g_second), stats.cosine(g, g_second)),
        ]
    )


def _cells(transition: Transition, row: _ShiftRow, numbers: Sequence[float], *, floor: bool) -> dict[str, Any]:
    """Return the cells of a row; what is undefined is null, and null_reason says why."""
    norm, shifted_norm, shift, cosine, floor_l2, floor_cosine = numbers
    cells: dict[str, Any] = {
        "layer": row.layer.name,
        "layer_index": row.layer.index,
        "parameters": row.parameters,
    }
    if not row.names:
        return cells | {"null_reason": NOTHING_TRAINED}
    cells |= {"gradient_norm": norm, "shifted_gradient_norm": shifted_norm, "shift_l2": shift}
    undirected = _undirected(transition, row, norm)
    reasons = [undirected]
    if not undirected:
        cells["shift_relative"] = shift / norm
        cells["shift_cosine"] = cosine if shifted_norm else None
        reasons.append(None if shifted_norm else "shift_cosine: G' is exactly zero")
    if floor:
        cells["floor_l2"] = floor_l2
        if not undirected:
            cells["floor_relative"] = floor_l2 / norm
            cells["floor_cosine"] = None if math.isnan(floor_cosine) and math.isfinite(floor_l2) else floor_cosine
            reasons.append(
                "floor_cosine: the second batch's gradient is exactly zero" if cells["floor_cosine"] is None else None
            )
    else:
        reasons.append("floor: no second batch")
    return cells | {"null_reason": "; ".join(filter(None, reasons)) or None}


def _undirected(transition: Transition, row: _ShiftRow, norm: float) -> str | None:
    """Say why the gradient has no direction, if it has none."""
    if all(transition.gradients[name] is None for name in row.names):
        return "cosine and relative: the loss does not depend on these parameters"
    cancelled = cancelled_parameters(transition.objective.model, row.layer)
    if norm == 0:
        return "cosine and relative: G is exactly zero"
    if cancelled.issuperset(row.names):
        return "cosine and relative: G is zero by construction, the normalisation behind it subtracts the bias again"
    return None
