"""G' of every layer from one pass: the hybrids of all layers are stacked and evaluated at once.

In small nets the time goes into launching operations, not into the operations. The hybrids W'_i are stacked along a
new axis and `torch.vmap` runs the user's loss at all of them. What does not differ between them is not stacked: layers
before the first that moved, and layers after the last that is wanted. The part of the pass before the first difference
is computed once.

The kernels are others than those of a plain pass, so the numbers are the same only up to rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ics import stats
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.plan import HybridPlan
from ics.landscape.objective import Objective
from ics.landscape.substitution import substituted
from ics.landscape.transition import ParameterGradients, Transition, vector
from ics.records import Layer

_UNSUITABLE = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule)


class BatchedPassError(Exception):
    """The model cannot be evaluated at several points in one pass; the message says why. Never reaches users."""


@dataclass(frozen=True)
class Point:
    """A point to evaluate at, and the parameters whose gradient there is wanted.

    Attributes:
        parameters: a value for every parameter.
        wanted: names of parameters.
    """

    parameters: Mapping[str, Tensor]
    wanted: tuple[str, ...]


def batched_passes(plan: HybridPlan) -> Iterator[tuple[Layer, ParameterGradients]]:
    """Yield each selected layer with G'_i, as `full_passes` does, up to rounding.

    The first point of the stack is W(t), whose loss and gradients are known. If they come out differently there,
    nothing is yielded at all. Tensors that a loss function or a hook puts aside in a list of its own are vmap's, and
    cannot be used afterwards.

    Args:
        plan: the hybrids of the selected layers.

    Cost: the arithmetic of a forward-backward pass for every selected layer and one more, less what the stack shares,
    in the launches of one pass; memory for as many passes.

    Raises:
        BatchedPassError: `torch.vmap` cannot run the model (`.item()`, control flow that depends on data, custom
            autograd functions), or other numbers come out (random numbers drawn in another order).

    Example:
        >>> from ics.landscape.hybrids.plan import plan_hybrids
        >>> from ics.landscape.transition import make_transition
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> objective = Objective(model, lambda model, x: model(x).square().sum(), torch.ones(4, 2))
        >>> before = objective.parameters
        >>> step = make_transition(objective, before=before, after={name: 0.9 * before[name] for name in before})
        >>> layers = [Layer(n, i, "Linear", (n,), (), (f"{n}.weight",), (), 0) for i, n in enumerate("01")]
        >>> plan = plan_hybrids(step, layers=layers, selected="01")
        >>> [(layer.name, list(found)) for layer, found in batched_passes(plan)]
        [('0', ['0.weight']), ('1', ['1.weight'])]
    """
    yield from full_passes(plan, found=_run_all(plan) if plan.to_run else {})


def _run_all(plan: HybridPlan) -> dict[str, ParameterGradients]:
    """Return G' of each hybrid that needs a pass, by the name of its layer."""
    transition = plan.transition
    check_kind(transition.objective)
    points = [Point(hybrid.parameters, hybrid.wanted) for hybrid in plan.to_run]
    names = tuple(dict.fromkeys(name for point in points for name in point.wanted))
    reference = Point(transition.before, names)
    losses, gradients = _evaluate(transition.objective, [reference, *points], layers=plan.layers)
    check_reference(losses[0], gradients[0], transition)
    return {hybrid.layer.name: there for hybrid, there in zip(plan.to_run, gradients[1:], strict=True)}


def _evaluate(
    objective: Objective, points: Sequence[Point], *, layers: Sequence[Layer]
) -> tuple[Tensor, list[ParameterGradients]]:
    """Return the loss at each point and the gradients wanted there.

    A model may write what differs within the stack into something that does not (`out += shortcut(x)` where only the
    shortcut differs), which vmap refuses; then everything is stacked.
    """
    differing = _differing(points)
    try:
        return _evaluate_stacked(objective, points, differing, _buffers_behind(objective.model, differing, layers))
    except Exception:
        buffers = frozenset(name for name, _ in objective.model.named_buffers())
    try:
        return _evaluate_stacked(objective, points, frozenset(points[0].parameters), buffers)
    except Exception as error:  # vmap has no exception of its own; a user's own error comes again in a plain pass
        raise BatchedPassError(f"{type(error).__name__}: {error}") from error


def _evaluate_stacked(
    objective: Objective, points: Sequence[Point], stacked: frozenset[str], buffers: frozenset[str]
) -> tuple[Tensor, list[ParameterGradients]]:
    leaves: dict[str, Tensor] = dict(objective.leaves(points[0].parameters))
    for name in stacked:
        values = torch.stack([point.parameters[name].detach() for point in points])
        leaves[name] = values.requires_grad_(leaves[name].requires_grad)

    def loss(parameters: dict[str, Tensor], own_buffers: dict[str, Tensor]) -> Tensor:
        with substituted(objective.model, {**parameters, **own_buffers}):
            return torch.stack([objective.loss(batch) for batch in objective.batches]).sum()

    with objective.standing_at(objective.parameters), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # the caller measures
        copies = {
            name: value.expand(len(points), *value.shape).clone()
            for name, value in objective.model.named_buffers()
            if name in buffers
        }
        axes = {name: 0 if name in stacked else None for name in leaves}
        losses = torch.vmap(loss, in_dims=(axes, dict.fromkeys(copies, 0)), randomness="same")(leaves, copies)
        names = list(dict.fromkeys(name for point in points for name in point.wanted))
        found = torch.autograd.grad(losses.sum(), [leaves[name] for name in names], allow_unused=True)
    by_name = dict(zip(names, found, strict=True))
    return losses.detach(), [
        {name: _slice(by_name[name], number) for name in point.wanted} for number, point in enumerate(points)
    ]


def _slice(stack: Tensor | None, number: int) -> Tensor | None:
    """Return one slice in memory of its own: a view would hold the gradients of all hybrids in memory."""
    return None if stack is None else (stack.to_dense() if stack.is_sparse else stack)[number].clone()


def _differing(points: Sequence[Point]) -> frozenset[str]:
    """Return the parameters that are not the same at all points, and those whose gradient is wanted."""
    wanted = {name for point in points for name in point.wanted}
    first = points[0].parameters
    return frozenset(
        name
        for name, value in first.items()
        if name in wanted or any(point.parameters[name] is not value for point in points)
    )


def _buffers_behind(model: nn.Module, differing: frozenset[str], layers: Sequence[Layer]) -> frozenset[str]:
    """Return the buffers that a pass may write different values into: all but those of layers before a difference."""
    before: list[str] = []
    for layer in layers:
        if not differing.isdisjoint(layer.parameters):
            break
        before += layer.modules
    return frozenset(name for name, _ in model.named_buffers() if name.rpartition(".")[0] not in before)


def check_kind(objective: Objective) -> None:
    """Raise `BatchedPassError` for a model whose modules cannot be called with other parameters, or not stacked."""
    for module in objective.model.modules():
        compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        if compiled or isinstance(module, _UNSUITABLE):
            raise BatchedPassError("it is compiled, scripted or parallel")
    if objective.writes_parameters:
        raise BatchedPassError("it writes into its parameters")


def check_reference(loss: Tensor, gradients: ParameterGradients, transition: Transition) -> None:
    """Compare loss and gradients that a stack gave for W(t) with those of a plain pass; half the digits must agree.

    Raises:
        BatchedPassError: they do not.
    """
    tolerance = torch.finfo(loss.dtype).eps ** 0.5
    there, expected = (vector(found, gradients, like=transition.before) for found in (gradients, transition.gradients))
    same_loss = (loss - transition.loss).abs() <= tolerance * transition.loss.abs()
    same_gradient = stats.distance(there, expected) <= tolerance * stats.norm(expected)
    if not bool(same_loss & same_gradient):  # NaN is never equal
        raise BatchedPassError("another loss or gradient comes out than in a plain pass")
