"""One-shot measurements that no default of the recorder makes: the shift by source layer, and slices of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pandas as pd
from torch import Tensor, nn

from ics import landscape
from ics.probes import find_layers, select_layers
from ics.recording.compiled import forced_eager, unwrapped
from ics.recording.one_shot_parts import as_frame, objective_of, transition_to

LossFunction = Callable[[nn.Module, Any], Tensor]


def attribution(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    after: Mapping[str, Tensor],
    *,
    layers: Any = None,
    grouping: Literal["paper", "leaf"] = "paper",
    micro_batches: bool | None = None,
) -> pd.DataFrame:
    """Which earlier layer's update causes how much of each layer's gradient shift.

    s_i = G'_i - G_i as in `gradient_shift`; its part from layer j < i is s_ij = grad_{W_i} L with only layer j updated,
    less G_i; the remainder s_i - sum_j s_ij is what layers do together. A row for each layer, set of parameters and
    source, with the length of the part, the length of the whole, their ratio `fraction`, the cosine between them, and
    the part's `share` <s_ij, s_i> / ||s_i||^2; shares add up to 1 with that of the remainder.

    Args:
        model: the model at W(t), in the mode in which it is trained; left as it is.
        loss_fn: `loss_fn(model, batch)` returning one number.
        batch: the batch that the update was made from.
        after: parameter names (as in `named_parameters`) to values at W(t+1); names left out did not move.
        layers: whose shift is attributed, as for `Recorder`; every layer before them is a source.
        grouping: "paper" or "leaf", as for `Recorder`.
        micro_batches: whether `batch` is a list of micro-batches, as for `Recorder.step`.

    Returns:
        Columns of the table `attribution` without `step`. The remainder's `source_layer` is "(remainder)".

    Cost: two forward-backward passes per layer, and two more.

    Raises:
        LossError: `loss_fn` does not return one number that depends on the parameters.
        SelectionError: a layer or a name in `after` that is not there.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> after = {name: value - 0.1 for name, value in model.named_parameters()}
        >>> frame = attribution(model, lambda model, x: model(x).square().mean(), torch.ones(4, 2), after)
        >>> frame.loc[frame.layer == "2", ["source_layer", "parameters", "share"]].values.tolist()[:2]
        [['0', 'weight', 1.0], ['(remainder)', 'weight', 0.0]]
    """
    model = unwrapped(model)
    with forced_eager():
        transition = transition_to(model, loss_fn, batch, after, None, micro_batches)
        found = find_layers(model, lambda: transition.objective(transition.before), grouping=grouping)
        selected = select_layers(found, layers)
        return as_frame(landscape.attribution(transition, layers=found, selected=selected))


def loss_slice(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    radius: float = 1.0,
    num_points: int = 21,
    dimensions: int = 1,
    seed: int = 0,
    micro_batches: bool | None = None,
) -> pd.DataFrame:
    """The loss on a line or a plane through the model's parameters, along filter-normalised random directions.

    L(w + alpha d) or L(w + alpha d + beta e); d and e are Gaussian, each filter of them as long as that filter of w,
    and zero for biases and normalisations. Source: Li et al. 2018 (arXiv 1712.09913), sec. 4.

    Args:
        model: the model at w, in the mode in which it is to be looked at; left as it is.
        loss_fn: `loss_fn(model, batch)` returning one number.
        batch: the batch whose loss is drawn.
        radius: the largest alpha and beta; at 1 a filter is moved by as much as it is long.
        num_points: how many along each direction; an odd number has w itself in the middle.
        dimensions: 1 for a line, 2 for a plane.
        seed: of the directions.
        micro_batches: whether `batch` is a list of micro-batches, as for `Recorder.step`.

    Returns:
        Columns `alpha`, `beta` (0 on a line), `distance` (the l2 distance from w, in weight) and `loss`, a row a point.

    Cost: a forward pass per point: `num_points`, or its square.

    Raises:
        LossError: `loss_fn` does not return one number.
        UsageError: a radius that is not positive, fewer than two points, or other dimensions than 1 and 2.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> frame = loss_slice(model, lambda model, x: model(x).square().mean(), torch.eye(2), num_points=3)
        >>> list(frame.alpha), list(frame.columns)
        ([-1.0, 0.0, 1.0], ['alpha', 'beta', 'distance', 'loss'])
    """
    model = unwrapped(model)
    with forced_eager():
        objective = objective_of(model, loss_fn, batch, micro_batches=micro_batches)
        columns = landscape.loss_slice(
            objective,
            objective.parameters,
            radius=radius,
            num_points=num_points,
            dimensions=dimensions,
            seed=seed,
        )
        return pd.DataFrame(columns)
