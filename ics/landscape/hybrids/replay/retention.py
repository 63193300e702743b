"""What of a recorded pass its replays still need, so that the rest need not be kept.

A replay at a frontier (the moment at which the first parameter that differs is read) hands back the outermost calls
that were over by then. Nobody sees what lies inside them. Nor does anybody see what one handed-back call of an
`nn.Sequential` passes to the next handed-back call: only its shape is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ics.landscape.hybrids.replay.calls import Call
from ics.landscape.hybrids.replay.kept_values import Argument, Kept, Tree
from ics.landscape.hybrids.replay.module_state import AttributeChange

Returned = tuple[Tree | None, tuple[tuple[int, Kept], ...]]


@dataclass(frozen=True)
class Retention:
    """What to keep of each call, by its position.

    Attributes:
        without_values: for calls of which no values are needed: what to write down as returned and written.
        overwritten: calls that returned or wrote what was overwritten later: copies are needed.
    """

    without_values: dict[int, Returned]
    overwritten: frozenset[int]

    @classmethod
    def of(cls, calls: Sequence[Call], *, overwritten: frozenset[int], first: float, last: float) -> Retention:
        """Return what all frontiers from `first` to `last` need of a pass with these calls."""
        without_values: dict[int, Returned] = {
            position: (None, ()) for position, call in enumerate(calls) if not call.precedes(last)
        }
        for position, call in outermost(calls, first):
            without_values |= dict.fromkeys(range(position + 1, call.following), (None, ()))
        without_values |= {position: blank(call) for position, call in unseen(calls, first)}
        return cls(without_values, overwritten)


def outermost(calls: Sequence[Call], frontier: float) -> Iterator[tuple[int, Call]]:
    """Yield position and call of what is handed back at `frontier` and lies in nothing that is handed back."""
    position = 0
    while position < len(calls):
        call = calls[position]
        if call.precedes(frontier):
            yield position, call
            position = call.following
        else:
            position += 1


def unseen(calls: Sequence[Call], frontier: float) -> Iterator[tuple[int, Call]]:
    """Yield position and call of what is handed back to a call that is handed back, and is seen by nothing else.

    So it is inside an `nn.Sequential`, where the one call's output is the next one's argument. What a call writes into
    its argument is seen elsewhere too if that is the argument of the sequence itself.
    """
    before: tuple[int, Call] | None = None
    is_outer = True  # whether the argument of `before` may be that of the sequence
    for position, call in outermost(calls, frontier):
        if before is None or not _follows(before[1], call, position):
            is_outer = True
        else:
            if not (_passes_on(call) and not call.writes) and not (is_outer and before[1].writes):
                yield before
            is_outer = is_outer and _passes_on(before[1])
        before = position, call


def blank(call: Call) -> Returned:
    """Return what the call returned and wrote, with values that nobody reads."""
    assert call.result is not None
    return call.result.blank(), tuple((argument, kept.blank()) for argument, kept in call.writes)


def _follows(before: Call, call: Call, position: int) -> bool:
    """Return whether `call` takes what `before` returned, and nobody else sees that."""
    outer = call.inside
    return (
        outer is not None
        and outer.chains
        and before.inside is outer
        and before.following == position
        and all(_is_simple(each) for each in (before, call))
    )


def _is_simple(call: Call) -> bool:
    one = call.num_arguments == 1 and call.result is not None and call.result.shape is None
    return one and not call.hooked and not any(isinstance(change, AttributeChange) for change in call.changes)


def _passes_on(call: Call) -> bool:
    """Return whether the call returns its argument itself."""
    return call.result is not None and isinstance(call.result.leaves[0], Argument)
