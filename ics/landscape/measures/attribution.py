"""Which earlier layer's update causes a layer's gradient shift: each source layer alone, and what they do together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ics import schema, stats
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.plan import moved_alone, plan_hybrids
from ics.landscape.measures.layerwise import (
    NOTHING_TRAINED,
    chosen_layers,
    in_order,
    trained_names,
    undirected_shift,
)
from ics.landscape.transition import ParameterGradients, Transition, vector
from ics.records import Block, Layer

_COLUMNS = schema.ATTRIBUTION.measured_columns


def attribution(transition: Transition, *, layers: Sequence[Layer], selected: Sequence[Layer] | None = None) -> Block:
    """Measure what the update of each earlier layer alone does to a layer's gradient.

    s_i  = G'_i - G_i                                                  the whole shift of layer i
    s_ij = grad_{W_i} L(W_1(t), ..., W_j(t+1), ..., W_k(t)) - G_i      its part from layer j < i, S_ij = ||s_ij||
    r_i  = s_i - sum_{j<i} s_ij                                        the remainder: layers acting together

    on the batch of the update with its random draws. Each part p (an s_ij, or r_i) is stored with its length, its
    length relative to the whole, ||p|| / ||s_i||, the cosine of p and s_i, and its share <p, s_i> / ||s_i||^2; the
    shares of a layer add up to 1. Parts may be longer than the whole: they cancel one another.

    Args:
        transition: W(t) to W(t+1) and the loss.
        layers: all layers of the model in the order of execution.
        selected: the layers whose shift is attributed; every layer before them is a source. Default all.

    Returns:
        The columns of `attribution` but for `step`: for each layer and set of parameters a row per layer before it,
        and one for the remainder, whose `source_layer` is "(remainder)" and whose `source_index` is -1. Lengths in
        loss/weight. Where the whole shift is zero, exactly or by construction, its fractions are null.

    Cost: a forward-backward pass per source layer that moved, which gives its part for all later layers at once, and
    those of `gradient_shift`: 2k for k layers. Memory: twice that of the parameters.

    Source: the one-at-a-time decomposition of Santurkar et al. 2018, Def. 2.1; r_i is second order in the update.

    Raises:
        UsageError: `layers` is not every layer in the order of execution.
        SelectionError: a selected layer that is not there.

    Example:
        >>> from ics.landscape import Objective, make_transition
        >>> model = torch.nn.Sequential(*[torch.nn.Linear(1, 1, bias=False) for _ in range(3)])
        >>> objective = Objective(model, lambda model, x: model(x).sum(), torch.ones(1, 1))   # L = abc, dL/dc = ab
        >>> before = {f"{i}.weight": torch.tensor([[1.0]]) for i in range(3)}
        >>> after = {"0.weight": torch.tensor([[3.0]]), "1.weight": torch.tensor([[2.0]])}
        >>> layers = [
        ...     Layer(n, i, "Linear", (n,), (f"{n}.weight",), (f"{n}.weight",), (1, 1), 1) for i, n in enumerate("012")
        ... ]
        >>> block = attribution(make_transition(objective, before=before, after=after), layers=layers)
        >>> for cells in list(zip(*(block.columns[n] for n in ("source_layer", "shift_l2", "share"))))[-3:]:
        ...     print(cells)   # 3 * 2 - 1 = (3 - 1) + (2 - 1) + 2
        ('0', 2.0, 0.4)
        ('1', 1.0, 0.2)
        ('(remainder)', 2.0, 0.4)
    """
    layers = in_order(layers, measurement="attribution")
    targets = chosen_layers(layers, selected)
    whole = _whole_shifts(transition, layers, targets)
    remainder = dict(whole)
    rows: list[_AttributionRow] = []
    measured: list[Tensor] = []
    for source in layers:
        later = [layer for layer in targets if layer.index > source.index]
        parts = _parts(transition, source, [name for layer in later for name in trained_names(transition, layer)])
        for row in _rows(transition, later, source.name, source.index):
            rows.append(row)
            measured.append(_measure(transition, parts, whole, row.names))
        # Subtracted as soon as measured: the parts of one source are as large as all parameters, and are not kept.
        remainder.update({name: remainder[name] - part for name, part in parts.items()})
    for row in _rows(transition, targets, schema.REMAINDER, -1):
        rows.append(row)
        measured.append(_measure(transition, remainder, whole, row.names))
    numbers = torch.stack(measured).tolist() if measured else []  # the one copy to the host
    cells = [_cells(transition, row, values) for row, values in zip(rows, numbers, strict=True)]
    cells.sort(key=lambda each: (each["layer_index"], schema.PARAMETERS.index(each["parameters"])))  # stable
    return Block("attribution", {column: [each.get(column) for each in cells] for column in _COLUMNS})


@dataclass(frozen=True)
class _AttributionRow:
    """What a row is about."""

    layer: Layer
    source: str
    source_index: int
    parameters: str
    names: tuple[str, ...]


def _rows(
    transition: Transition, targets: Sequence[Layer], source: str, source_index: int
) -> Iterator[_AttributionRow]:
    for layer in targets:
        for parameters in schema.PARAMETERS:
            names = trained_names(transition, layer, parameters)
            yield _AttributionRow(layer, source, source_index, parameters, names)


def _whole_shifts(transition: Transition, layers: Sequence[Layer], targets: Sequence[Layer]) -> dict[str, Tensor]:
    """Return G' - G by parameter name; a parameter belongs to one layer."""
    shifts: dict[str, Tensor] = {}
    plan = plan_hybrids(transition, layers=layers, selected={layer.name for layer in targets})
    for layer, shifted in full_passes(plan):
        shifts |= _change(transition, shifted, trained_names(transition, layer))
    return shifts


def _parts(transition: Transition, source: Layer, names: Collection[str]) -> dict[str, Tensor]:
    """Return s_ij by parameter name for all layers i behind the source j, from one pass; empty if j did not move."""
    point = moved_alone(transition, source) if names else None
    if point is None:
        return {}
    return _change(transition, transition.objective(point, wanted=list(names)).gradients, names)


def _change(transition: Transition, gradients: ParameterGradients, names: Collection[str]) -> dict[str, Tensor]:
    here = vector(transition.gradients, names, like=transition.before)
    there = vector(gradients, names, like=transition.before)
    return {name: b - a for name, a, b in zip(names, here, there, strict=True)}


def _measure(
    transition: Transition, parts: dict[str, Tensor], whole: dict[str, Tensor], names: Sequence[str]
) -> Tensor:
    """Return ||p||, ||s||, cos(p, s) of one vector, shape (3,)."""
    if not names:
        return transition.loss.new_zeros(3, dtype=torch.float32)
    p, s = (vector(each, names, like=transition.before) for each in (parts, whole))
    return torch.stack([stats.norm(p), stats.norm(s), stats.cosine(p, s)])


def _cells(transition: Transition, row: _AttributionRow, numbers: Sequence[float]) -> dict[str, Any]:
    """Return the cells of a row; what is undefined is null, and null_reason says why."""
    part, whole, cosine = numbers
    cells: dict[str, Any] = {
        "layer": row.layer.name,
        "layer_index": row.layer.index,
        "source_layer": row.source,
        "source_index": row.source_index,
        "parameters": row.parameters,
    }
    if not row.names:
        return cells | {"null_reason": NOTHING_TRAINED}
    cells |= {"shift_l2": part, "whole_shift_l2": whole}
    undirected = undirected_shift(transition, row.layer, row.names, whole)
    if undirected:
        return cells | {"null_reason": f"fraction, whole_shift_cosine and share: {undirected}"}
    cells["fraction"] = part / whole
    if part == 0:
        return cells | {"share": 0.0, "null_reason": "whole_shift_cosine: this part is exactly zero"}
    return cells | {"whole_shift_cosine": cosine, "share": part / whole * cosine}
