"""Passes of the updated net that are written down, and passes in which part of one is handed back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from ics.landscape.hybrids.replay.call_recording import Recording
from ics.landscape.hybrids.replay.call_replay import Replay
from ics.landscape.hybrids.replay.calls import Interception, ReplayError
from ics.landscape.objective import Evaluation, Objective
from ics.landscape.random_state import RandomState


def record(
    objective: Objective,
    parameters: Mapping[str, Tensor],
    interception: Interception,
    foreign: list[Tensor],
    *,
    copied: bool,
) -> tuple[list[Recording], Evaluation]:
    """Run the net once, and return what was written down of each micro-batch, and the loss.

    Leaves that the loss depends on and that are not the evaluation's own go into `foreign`.
    """
    generators = RandomState.capture(objective.model)

    def recording(_: int) -> Recording:
        return Recording(objective.model, generators, copied=copied)

    return _written_down(objective, parameters, interception, recording, foreign)


def record_again(
    objective: Objective,
    parameters: Mapping[str, Tensor],
    interception: Interception,
    passes: Sequence[Recording],
    frontiers: Sequence[Sequence[float]],
) -> tuple[list[Recording], Evaluation]:
    """Run the net once more, and keep what replays from these frontiers need."""
    ends = [(min(at), max(at)) for at in zip(*frontiers, strict=True)]

    def recording(number: int) -> Recording:
        first, last = ends[number]
        return passes[number].once_more(first=first, last=last)

    recordings, there = _written_down(objective, parameters, interception, recording)
    for again, before, (_, last) in zip(recordings, passes, ends, strict=True):
        if [call.module for call in again.calls] != [call.module for call in before.calls]:
            raise ReplayError("it calls its modules in another order than before")
        again.settle(last_frontier=last)
    return recordings, there


def _written_down(
    objective: Objective,
    parameters: Mapping[str, Tensor],
    interception: Interception,
    make: Callable[[int], Recording],
    foreign: list[Tensor] | None = None,
) -> tuple[list[Recording], Evaluation]:
    """Run the net, the pass of each micro-batch with the recording that `make` returns for its number."""
    recordings: list[Recording] = []

    @contextmanager
    def around(number: int) -> Iterator[None]:
        recording = make(number)
        with recording.watching(), interception.handled_by(recording):
            yield
        recordings.append(recording)

    def inspect(loss: Tensor, own: Collection[Tensor]) -> None:
        if foreign is not None:  # a loss may use a leaf of its own, a learned temperature say: that is no mistake
            foreign.extend(foreign_leaves(loss, own))

    return recordings, objective(parameters, wanted=(), around=around, inspect=inspect)


def replay(
    objective: Objective,
    parameters: Mapping[str, Tensor],
    interception: Interception,
    recordings: Sequence[Recording],
    frontiers: Sequence[float],
    *,
    wanted: Sequence[str] = (),
    foreign: Sequence[Tensor] | None = None,
) -> Evaluation:
    """Evaluate with every call that was over at its micro-batch's frontier handing back what it returned.

    With `foreign`, the loss may depend on no leaves but these and the evaluation's own: others belong to a pass before,
    which left a tensor where a call that is handed back would have put a new one.

    Parameters read before that require no gradient, so that the operations there save nothing for the backward pass,
    whether their call is handed back or runs: activation checkpointing counts what is saved. All others do, because
    modules choose other kernels where nothing does.
    """
    later = [
        name
        for name in objective.trainable
        if all(one.reads_later(name, at) for one, at in zip(recordings, frontiers, strict=True))
    ]

    @contextmanager
    def around(number: int) -> Iterator[None]:
        handler = Replay(recordings[number], frontiers[number])
        with interception.handled_by(handler):
            yield
        handler.check()

    def inspect(loss: Tensor, own: Collection[Tensor]) -> None:
        if foreign is not None and foreign_leaves(loss, own, allowed=foreign):
            raise ReplayError("it uses what an earlier pass left behind")

    return objective(parameters, wanted=wanted, requiring=(*later, *wanted), around=around, inspect=inspect)


def foreign_leaves(loss: Tensor, own: Collection[Tensor], *, allowed: Sequence[Tensor] = ()) -> list[Tensor]:
    """Return the leaves of a loss's graph that are neither in `own` nor in `allowed`."""
    ours = {id(leaf) for leaf in (*own, *allowed)}
    return [leaf for leaf in graph_leaves(loss) if id(leaf) not in ours]


def graph_leaves(loss: Tensor) -> Iterator[Tensor]:
    """Yield every leaf of a loss's graph that would be given a gradient: the tensors that a backward pass ends at.

    Cost: a microsecond for every operation of the pass.

    Example:
        >>> import torch
        >>> a, b = (torch.ones(1, requires_grad=True) for _ in "ab")
        >>> [leaf is a for leaf in graph_leaves((a * 2 + b.detach()).sum())]
        [True]
    """
    nodes = [] if loss.grad_fn is None else [loss.grad_fn]
    seen = set(nodes)
    while nodes:  # a stack of our own: the graph of a deep net is deeper than Python may recurse
        node = nodes.pop()
        if hasattr(node, "variable"):  # the end of the graph, which accumulates into a tensor's gradient
            yield node.variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
