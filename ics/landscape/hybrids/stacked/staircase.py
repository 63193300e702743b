"""G' of every layer in one pass, where the model is a chain of modules: hybrids that are past their layer share it.

Hybrid i has moved only the layers before layer i, so behind layer i it is at W(t), as is every hybrid before it. Going
down the chain once, each module runs three times: at W(t+1), on what the updated net fed to it; alone for the hybrid
whose layer it is; and at W(t) for all hybrids of earlier layers at once, stacked along a new axis:

    module    1     2     3     4
    t+1       o     o     o     o
    alone     1     2     3     4
    stacked         1     1,2   1,2,3

Half of the k full passes' operations, in as many launches as three passes have. The operations are others than those
of a plain pass, so the numbers are the same only up to rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.plan import Hybrid, HybridPlan
from ics.landscape.hybrids.stacked.batched import BatchedPassError, check_kind, check_reference
from ics.landscape.hybrids.stacked.chain import Chain, Stage, readings_noted
from ics.landscape.hybrids.stacked.stack import Stack, is_understood, joined, run
from ics.landscape.objective import Objective, add_gradients
from ics.landscape.random_state import RandomState
from ics.landscape.transition import ParameterGradients, Transition
from ics.records import Layer


def staircase(plan: HybridPlan, *, features_first: bool = False) -> Iterator[tuple[Layer, ParameterGradients]]:
    """Yield each selected layer with G'_i, as `full_passes` does, up to rounding.

    The net at W(t), whose loss and gradient are known, goes down with the others. If it comes out differently, nothing
    is yielded at all.

    Args:
        plan: the hybrids of the selected layers.
        features_first: multiply matrices in the layout (features, samples), which is faster for narrow layers.

    Cost: about (layers / 2) forward-backward passes' arithmetic in three passes' launches, and the loss for every layer
    at once; memory for (layers / 2) passes.

    Raises:
        BatchedPassError: the model is no chain of modules that share no parameters, has hooks, reads its parameters or
            writes buffers beside the chain, or `torch.vmap` cannot run a module or the loss; or other numbers come out.

    Example:
        >>> from torch import nn
        >>> from ics.landscape import Objective, make_transition
        >>> from ics.landscape.hybrids.plan import plan_hybrids
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> objective = Objective(model, lambda model, x: model(x).square().sum(), torch.ones(4, 2))
        >>> before = objective.parameters
        >>> step = make_transition(objective, before=before, after={name: 0.9 * before[name] for name in before})
        >>> layers = [Layer(n, i, "Linear", (n,), (), (f"{n}.weight",), (), 0) for i, n in enumerate("01")]
        >>> plan = plan_hybrids(step, layers=layers, selected="01")
        >>> [(layer.name, list(found)) for layer, found in staircase(plan)]
        [('0', ['0.weight']), ('1', ['1.weight'])]
    """
    yield from full_passes(plan, found=_run_all(plan, features_first=features_first) if plan.to_run else {})


@dataclass(frozen=True, eq=False)
class _Member:
    """A hybrid on its way down.

    Attributes:
        first: position of the first stage at which it differs from the updated net, or its gradient is wanted.
        last: position of the last stage at which it differs from the net at W(t), or its gradient is wanted.
        parameters: a value for every parameter of these stages and those between; those wanted require a gradient.
        wanted: names of parameters.
    """

    first: int
    last: int
    parameters: Mapping[str, Tensor]
    wanted: tuple[str, ...]


def _run_all(plan: HybridPlan, *, features_first: bool) -> dict[str, ParameterGradients]:
    """Return G' of each hybrid that needs a pass, by the name of its layer."""
    transition = plan.transition
    objective = transition.objective
    check_kind(objective)
    chain = Chain.of(objective.model)
    if chain is None:
        raise BatchedPassError("it is no chain of modules without hooks that share no parameters")
    members = [_reference(chain, transition), *(_member(chain, hybrid) for hybrid in plan.to_run)]
    try:
        losses, gradients = _evaluate(chain, transition, members, features_first=features_first)
    except BatchedPassError:
        raise
    except Exception as error:  # vmap has no exception of its own; a user's own error comes again in a plain pass
        raise BatchedPassError(f"{type(error).__name__}: {error}") from error
    check_reference(losses[0], gradients[0], transition)
    return {hybrid.layer.name: there for hybrid, there in zip(plan.to_run, gradients[1:], strict=True)}


def _reference(chain: Chain, transition: Transition) -> _Member:
    """Return the net at W(t), which joins the others behind the first module with parameters."""
    first = next(position for position, stage in enumerate(chain.stages) if stage.names)
    names = chain.stages[first].names.values()
    wanted = tuple(name for name in names if name in transition.gradients)
    return _Member(0, first, _leaves({name: transition.before[name] for name in names}, wanted), wanted)


def _member(chain: Chain, hybrid: Hybrid) -> _Member:
    """Return the hybrid, alone between the stages at which it leaves the updated net and joins the net at W(t)."""
    first = min(chain.places[name] for name in hybrid.unlike_later)
    # A hybrid may differ from W(t) behind its own layer too, if a layer that was executed earlier stands there.
    last = max(chain.places[name] for name in (*hybrid.updated, *hybrid.wanted))
    last = max(first, last)
    between = (name for stage in chain.stages[first : last + 1] for name in stage.names.values())
    parameters = _leaves({name: hybrid.parameters[name] for name in between}, hybrid.wanted)
    return _Member(first, last, parameters, hybrid.wanted)


def _leaves(values: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    return {name: value.detach().requires_grad_(name in wanted) for name, value in values.items()}


def _evaluate(
    chain: Chain, transition: Transition, members: Sequence[_Member], *, features_first: bool
) -> tuple[Tensor, list[ParameterGradients]]:
    """Return the loss of each member and the gradients wanted there."""
    objective = transition.objective
    random_state = RandomState.capture(objective.model)
    before, after = _leaves(transition.before, ()), _leaves(transition.after, ())
    leaves = {(each, name): each.parameters[name] for each in members for name in each.wanted}
    gradients: dict[tuple[_Member, str], Tensor | None] = dict.fromkeys(leaves)
    total = transition.loss.new_zeros(len(members))
    with objective.standing_at(objective.leaves(before, ())), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # the caller measures
        buffers = [(place, name, value, value.clone()) for place, name, value in _buffers(chain)]
        for batch in objective.batches:
            descent = _Descent(
                chain, members, before=before, after=after, random_state=random_state, features_first=features_first
            )
            losses = _losses(objective, chain, descent, batch, start=random_state.now())
            add_gradients(gradients, losses.sum(), leaves)
            total += losses.detach()[[descent.order.index(each) for each in members]]
        for place, name, value, kept in buffers:
            if place.get(name) is not value or not torch.equal(value, kept):
                raise BatchedPassError("it writes into buffers")
    return total, [{name: gradients[each, name] for name in each.wanted} for each in members]


def _losses(objective: Objective, chain: Chain, descent: _Descent, batch: Any, *, start: RandomState) -> Tensor:
    """Return the loss of each member, in the order in which they came down.

    The user's loss is evaluated twice: once for the updated net, during which all go down the chain in whatever
    contexts the user opened around it, and once, stacked, for what came out at the bottom.
    """
    with chain.answered(descent) as calls:
        objective.loss(batch)  # its value is that of the updated net, which is not asked for
    end = start.now()
    if len(calls) != 1:
        raise BatchedPassError("the chain is not called once")
    drawn = not end.equals(start)

    def loss(output: Tensor) -> Tensor:
        def bottom(_: Any) -> Tensor:
            if drawn:  # what the loss draws behind the chain must not depend on what was drawn to get here
                descent.exit_state.restore()
            return output

        with chain.answered(bottom):
            return objective.loss(batch)

    if drawn:
        start.restore()
    with readings_noted(objective.model) as read:
        losses = torch.vmap(loss, randomness="same")(descent.bottom.samples_first())
    if read:
        raise BatchedPassError("parameters are read outside the chain")
    if drawn:
        end.restore()
    return losses


def _buffers(chain: Chain) -> Iterator[tuple[dict[str, Tensor | None], str, Tensor]]:
    """Yield the buffers of all modules but those whose buffers are left alone."""
    for stage in chain.stages:
        for module in () if is_understood(stage.module) else stage.module.modules():
            yield from ((module._buffers, name, value) for name, value in module._buffers.items() if value is not None)


class _Descent:
    """The way of all members, and of the updated net, down the chain: stands in for a call of the chain.

    Attributes:
        order: the members as they are stacked at the bottom.
        bottom: what the chain returns for each of them.
        exit_state: the generators behind the chain.
    """

    def __init__(
        self,
        chain: Chain,
        members: Sequence[_Member],
        *,
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        random_state: RandomState,
        features_first: bool,
    ) -> None:
        self._chain, self._members, self._before, self._after = chain, members, before, after
        self._random, self._features_first = random_state, features_first

    def __call__(self, value: Any) -> Tensor:
        """Go down, and return what the updated net returns."""
        if not isinstance(value, Tensor):
            raise BatchedPassError("the chain is not called with a tensor")
        updated, stacked = Stack.of(value), None
        alone: dict[_Member, Stack] = {}
        self.order: list[_Member] = []
        for position, stage in enumerate(self._chain.stages):
            # One layout for all that is joined below: the updated net takes it first, and the others start from it.
            updated = updated.prepared(stage.module, features_first=self._features_first)
            alone |= {each: updated for each in self._members if each.first == position}
            running = [(updated, self._after), *((stack, each.parameters) for each, stack in alone.items())]
            running += [] if stacked is None else [(stacked, self._before)]
            through = self._run_each(stage, running)
            # `through` is longer by the stack of those that have joined, if there is one.
            updated, alone = through[0], dict(zip(alone, through[1:], strict=False))
            arrived = [each for each in alone if each.last == position]
            together = through[len(alone) + 1 :] + [alone.pop(each) for each in arrived]
            stacked = joined(together) if together else None
            self.order += arrived
        assert stacked is not None
        self.bottom, self.exit_state = stacked, self._random.now()
        return updated.samples_first()[0]

    def _run_each(self, stage: Stage, running: Sequence[tuple[Stack, Mapping[str, Tensor]]]) -> list[Stack]:
        """Run the stage on each stack with the values beside it, with the same random numbers every time."""
        state = None if is_understood(stage.module) else self._random.now()
        through: list[Stack] = []
        for stack, values in running:
            version = stack.values._version  # an in-place activation would spoil the input of those still to run
            if state is not None:
                state.restore()
            ready = stack.prepared(stage.module, features_first=self._features_first)
            through.append(run(stage.module, ready, stage.among(values)))
            if stack.values._version != version and any(other is stack for other, _ in running[len(through) :]):
                raise BatchedPassError("a module writes into what several hybrids are given")
        return through
