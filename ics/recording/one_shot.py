"""Measurements without a recorder: each returns a pandas DataFrame with the columns of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from ics import landscape, schema
from ics.errors import IcsError, LossError, UsageError
from ics.landscape import Objective, RandomState, make_transition, substituted
from ics.landscape.attributes import AttributeSnapshot
from ics.probes import Probes, find_layers, select_layers
from ics.recording.inputs import extra_parameters_of, feed, forced_eager, holds_micro_batches, unwrapped
from ics.recording.measuring.batch_reading import choose_reading
from ics.recording.writing.transfer import to_host
from ics.records import Block, Layer

LossFunction = Callable[[nn.Module, Any], Tensor]


def gradient_shift(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    after: Mapping[str, Tensor],
    *,
    second_batch: Any = None,
    layers: Any = None,
    grouping: Literal["paper", "leaf"] = "paper",
    linearised: bool = False,
    batched: bool = False,
    chunk: int | None = None,
    micro_batches: bool | None = None,
) -> pd.DataFrame:
    """Measure the internal covariate shift of every layer between the model's parameters and those `after` an update.

    G_i = grad_{W_i} L(W_1(t), ..., W_k(t)), G'_i = grad_{W_i} L(W_1(t+1), ..., W_{i-1}(t+1), W_i(t), ..., W_k(t)). The
    shift is ||G_i - G'_i||. Each row also has its cosine, its size relative to ||G_i||, and the noise floor: the same
    between G_i and the gradient of `second_batch` at W(t). Source: Santurkar et al. 2018, Def. 2.1.

    Args:
        model: the model at W(t), in the mode in which it is trained; left as it is.
        loss_fn: `loss_fn(model, batch)` returning one number.
        batch: the batch from which the update was computed.
        after: parameter names (as in `named_parameters`) to values at W(t+1); names left out did not move.
        second_batch: another batch, for the floor; without it the floor is null.
        layers: which layers, as for `Recorder`.
        grouping: "paper" or "leaf", as for `Recorder`.
        linearised: also measure how much of each shift is curvature times step, sum over j < i of H_ij Delta_j.
        batched: also try to evaluate several layers' gradients in one pass. This is faster on small nets and takes more
            memory; the last digits then depend on which way was faster. Without it the result is bit-identical to full
            passes.
        chunk: keep the outputs of the updated net's modules for this many consecutive layers at a time, not for all.
            This takes less memory and (1 + layers / chunk) more forward passes, and gives the same bits. Not with
            `batched`.
        micro_batches: whether `batch` is a list of micro-batches, as for `Recorder.step`.

    Returns:
        Columns of the table `gradient_shift` without `step`: two rows per layer, for its weight and all its parameters.

    Cost: at most one forward-backward pass per layer and two more; see docs/metrics.md.

    Raises:
        LossError: `loss_fn` does not return one number that depends on the parameters.
        SelectionError: a layer or a name in `after` that is not there.
        UsageError: `chunk` is not a positive number, or is given with `batched`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> batch = (torch.ones(4, 2), torch.zeros(4, 1))
        >>> after = {name: value - 0.1 for name, value in model.named_parameters()}
        >>> loss_fn = lambda model, batch: ((model(batch[0]) - batch[1]) ** 2).mean()
        >>> frame = gradient_shift(model, loss_fn, batch, after)
        >>> float(frame.shift_l2[0]), float(frame.shift_cosine[0])   # nothing before the first layer moved
        (0.0, 1.0)
    """
    model = unwrapped(model)
    with forced_eager():
        transition = transition_to(model, loss_fn, batch, after, second_batch, micro_batches)
        # Layers are found by evaluating the loss, as only `loss_fn` knows how this batch goes through the model.
        found = find_layers(model, lambda: transition.objective(transition.before), grouping=grouping)
        selected = select_layers(found, layers)
        options: dict[str, Any] = {"linearised": linearised, "batched": batched, "chunk": chunk}
        return as_frame(landscape.gradient_shift(transition, layers=found, selected=selected, **options))


def gradient_line(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    etas: Sequence[float],
    *,
    directions: Sequence[str] = ("gradient",),
    num_random: int = 1,
    after: Mapping[str, Tensor] | None = None,
    learning_rate: float | None = None,
    layers: Any = None,
    grouping: Literal["paper", "leaf"] = "paper",
    micro_batches: bool | None = None,
) -> pd.DataFrame:
    """Measure the loss and the change of its gradient along a line from the model's parameters.

    w_eta = w - eta g, with g = grad L(w) on the batch, not normalised. There is a row per eta with the distance
    eta ||g||, the loss L(w_eta), ||grad L(w_eta) - g|| and the Taylor error. Source: Santurkar et al. 2018, sec. 3.

    Args:
        model: the model at w, in the mode in which it is trained; left as it is.
        loss_fn: `loss_fn(model, batch)` returning one number.
        batch: the batch on which the loss is evaluated.
        etas: step sizes; 0, the point itself, is added.
        directions: "gradient", "update" (needs `after` and `learning_rate`) and "random".
        num_random: number of random directions, each as long as the gradient step of the same eta.
        after: parameter names to values after the optimizer's step, for the direction "update".
        learning_rate: learning rate of that step; also stored beside the profile for the line 2/lr.
        layers: layers to move one at a time, in addition to the whole net, as for `Recorder` ("*" for all); default
            none.
        grouping: "paper" or "leaf", as for `Recorder`.
        micro_batches: whether `batch` is a list of micro-batches, as for `Recorder.step`.

    Returns:
        Columns of the table `gradient_line` without `step`.

    Cost: one forward-backward pass per eta and direction, for the whole net and each of `layers`, plus one.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> batch = (torch.eye(2), torch.zeros(2, 1))
        >>> loss_fn = lambda model, batch: ((model(batch[0]) - batch[1]) ** 2).sum()
        >>> list(gradient_line(model, loss_fn, batch, [0.1, 0.2]).eta)
        [0.0, 0.1, 0.2]
    """
    if "update" in directions and after is None:
        raise UsageError('the direction "update" expects the parameters after the step, got none; type after={...}')
    model = unwrapped(model)
    with forced_eager():
        transition = transition_to(model, loss_fn, batch, after or {}, None, micro_batches, learning_rate)
        alone: tuple[Layer, ...] = ()
        if layers is not None:
            found = find_layers(model, lambda: transition.objective(transition.before), grouping=grouping)
            alone = select_layers(found, layers)
        options: dict[str, Any] = {"directions": tuple(directions), "num_random": num_random, "layers": alone}
        return as_frame(landscape.gradient_line(transition, etas=etas, **options))


def sharpness(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    num_eigenvalues: int = 1,
    learning_rate: float | None = None,
    micro_batches: bool | None = None,
) -> pd.DataFrame:
    """Measure the largest Hessian eigenvalues on the batch and the batch sharpness g.Hg / ||g||^2, with 2/lr.

    Args:
        model: the model at w, in the mode in which it is trained; left as it is.
        loss_fn: `loss_fn(model, batch)` returning one number, twice differentiable.
        batch: the batch on which the loss is evaluated.
        num_eigenvalues: number of eigenvalues, the largest first.
        learning_rate: for the reference 2/lr; null without it.
        micro_batches: whether `batch` is a list of micro-batches, as for `Recorder.step`.

    Returns:
        One row with the columns of the table `curvature` without `step`.

    Cost: a gradient with its graph, and 20 to 60 backward passes through it. Source: Cohen et al. 2021.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> frame = sharpness(model, lambda model, x: (model(x) ** 2).sum() / 2, torch.eye(2) * 2, learning_rate=0.1)
        >>> round(float(frame.hessian_max_eigenvalue[0]), 3), float(frame.two_over_lr[0])
        (4.0, 20.0)
    """
    model = unwrapped(model)
    with forced_eager():
        transition = transition_to(model, loss_fn, batch, {}, None, micro_batches, learning_rate)
        return as_frame(landscape.curvature(transition, num_eigenvalues=num_eigenvalues))


def activation_stats(
    model: nn.Module,
    batch: Any,
    *,
    layers: Any = None,
    forward: Callable[[nn.Module, Any], object] | None = None,
) -> pd.DataFrame:
    """Measure every layer's input, pre-activation, normalised pre-activation and activation on one batch.

    Args:
        model: any model, in the mode in which it should be measured; left as it is.
        batch: a tensor (`model(batch)`), a mapping (`model(**batch)`), or a tuple or list whose first member is the
            input (`model(batch[0])`).
        layers: which layers, as for `Recorder`.
        forward: `forward(model, batch)`, if the batch is fed in another way.

    Returns:
        Columns of the table `activations` without `step`.

    Cost: one forward pass without gradients, and one pass over each tensor.

    Example:
        >>> frame = activation_stats(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(4, 2))
        >>> list(frame.site)
        ['input', 'preactivation', 'activation']
    """
    model = unwrapped(model)
    state = RandomState.capture(model)
    # Clones for the pass to write to: BatchNorm in training mode updates its running statistics even without gradients.
    buffers = {name: value.detach().clone() for name, value in model.named_buffers()}
    attributes = AttributeSnapshot(model.modules())
    probes = Probes(model, activations=True, gradients=False, normalization=False, layers=layers)
    try:
        with forced_eager(), torch.no_grad(), substituted(model, buffers), probes:
            (forward or feed)(model, batch)
    finally:
        state.restore()
        attributes.undo()
    return as_frame(*probes.blocks())


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
    """Attribute each layer's gradient shift to the updates of earlier layers.

    The shift s_i = G'_i - G_i is that of `gradient_shift`. Its part from layer j < i is s_ij, the gradient grad_{W_i} L
    with only layer j updated, minus G_i. The remainder s_i - sum_j s_ij is the joint effect of the layers. There is a
    row for each layer, set of parameters and source, with the length of the part, the length of the whole, their ratio
    `fraction`, the cosine between them, and the part's `share` <s_ij, s_i> / ||s_i||^2. The shares, including that of
    the remainder, add up to 1.

    Args:
        model: the model at W(t), in the mode in which it is trained; left as it is.
        loss_fn: `loss_fn(model, batch)` returning one number.
        batch: the batch from which the update was computed.
        after: parameter names (as in `named_parameters`) to values at W(t+1); names left out did not move.
        layers: the layers whose shift is attributed, as for `Recorder`; every layer before them is a source.
        grouping: "paper" or "leaf", as for `Recorder`.
        micro_batches: whether `batch` is a list of micro-batches, as for `Recorder.step`.

    Returns:
        Columns of the table `attribution` without `step`. The remainder's `source_layer` is "(remainder)".

    Cost: two forward-backward passes per layer, plus two.

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
    """Evaluate the loss on a line or plane through the model's parameters, along filter-normalised random directions.

    L(w + alpha d) or L(w + alpha d + beta e). The directions d and e are Gaussian; each of their filters has the norm
    of that filter of w, and they are zero for biases and normalisations. Source: Li et al. 2018 (arXiv 1712.09913),
    sec. 4.

    Args:
        model: the model at w, in the mode in which it should be evaluated; left as it is.
        loss_fn: `loss_fn(model, batch)` returning one number.
        batch: the batch on which the loss is evaluated.
        radius: the largest alpha and beta; at 1 a filter moves by its own norm.
        num_points: number of points along each direction; with an odd number, w itself is in the middle.
        dimensions: 1 for a line, 2 for a plane.
        seed: seed of the directions.
        micro_batches: whether `batch` is a list of micro-batches, as for `Recorder.step`.

    Returns:
        Columns `alpha`, `beta` (0 on a line), `distance` (the l2 distance from w, in weight) and `loss`; one row per
        point.

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


def objective_of(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    micro_batches: bool | None = None,
    random_state: RandomState | None = None,
) -> Objective:
    """Return the loss of a batch; whether it is a list of micro-batches is seen from it unless it is said."""
    extra = extra_parameters_of(model, loss_fn, None, ())
    if micro_batches is not None or type(batch) is not list or not batch:
        accumulate = bool(micro_batches)
        return Objective(model, loss_fn, batch, accumulate=accumulate, random_state=random_state, extra=extra)

    def reading(accumulate: bool) -> Objective:
        return Objective(model, loss_fn, batch, accumulate=accumulate, random_state=random_state, extra=extra)

    try:
        before = reading(False).parameters
        found = choose_reading(reading, holds_micro_batches(batch), len(batch), before=before, used={})
    except UsageError:
        raise
    except IcsError as error:
        raise LossError(str(error)) from error
    return reading(found.accumulate)


def transition_to(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    after: Mapping[str, Tensor],
    second_batch: Any,
    micro_batches: bool | None,
    learning_rate: float | None = None,
) -> landscape.Transition:
    """Return the transition from the model's present parameters to those `after` the update."""
    state = RandomState.capture(model)
    objective = objective_of(model, loss_fn, batch, micro_batches=micro_batches, random_state=state)
    second = None
    if second_batch is not None:
        second = Objective(
            model, loss_fn, second_batch, accumulate=objective.accumulate, random_state=state, extra=objective.extra
        )
    before = objective.parameters
    return make_transition(
        objective,
        before=before,
        after=before | {name: value.detach() for name, value in after.items()},
        second=second,
        learning_rate=learning_rate,
    )


def as_frame(*blocks: Block) -> pd.DataFrame:
    """Return the rows of one table as a frame, with its columns in the schema's order."""
    frames = [pd.DataFrame(columns) for _, columns in to_host(blocks)]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    order = [name for name in schema.table_named(blocks[0].table).column_names if name in frame.columns]
    return frame[order]
