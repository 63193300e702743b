"""Which way to G' is the fastest for a model: found out once, by measurement."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Protocol

import torch
from torch import nn

from ics import stats
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.plan import HybridPlan
from ics.landscape.hybrids.stacked.batched import BatchedPassError, batched_passes
from ics.landscape.hybrids.stacked.staircase import staircase
from ics.landscape.transition import ParameterGradients, vector
from ics.records import Layer

_FEWEST = 3  # hybrids; for fewer there is nothing to gain
_SMALL_SECONDS = 0.05  # a pass that takes longer is not bound by launches, and may not fit into memory several times
_WORTHWHILE = 1.25  # plain passes round as training does: they are left only for a clear gain
_ROUNDS = 2

GradientsByLayer = list[tuple[Layer, ParameterGradients]]
_Key = tuple[bool, bool, tuple[str, ...]]


class Passes(Protocol):
    """A way to G' of every selected layer: `full_passes` or one that gives the same."""

    def __call__(self, plan: HybridPlan) -> Iterator[tuple[Layer, ParameterGradients]]:
        """Yield each selected layer with G'."""


# None: measured once, and nothing chosen yet.
_chosen: weakref.WeakKeyDictionary[nn.Module, dict[_Key, Passes | None]] = weakref.WeakKeyDictionary()


def fastest(
    plan: HybridPlan, *, usual: Passes = full_passes, exact: bool = False
) -> Iterator[tuple[Layer, ParameterGradients]]:
    """Yield each selected layer with G' by the way that was seen to be the fastest for the model.

    The first time that a model's layers are measured, the usual way gives the result, and that is all: choosing costs
    more than a single measurement could gain. The second time too, but if the model is small, the usual way, full
    passes, batched passes and the staircase are then timed in turns; if it is large, two full passes are, and stand for
    the others. From the third time on the fastest is taken; batched passes and the staircase only if they gave the same
    gradients (to the root of the machine precision) in clearly less time.
    What was chosen is remembered as long as the model lives. A batched pass that cannot be run later on is replaced by
    the usual way for good.

    Whichever way is taken, the numbers agree up to rounding; all but batched passes and the staircase agree bit by bit.

    Args:
        plan: the hybrids of the selected layers.
        usual: the way that is right for any model, and bit-identical to full passes.
        exact: choose among bit-identical ways only. Otherwise the last digits depend on what was faster, and on
            which layers are measured together.

    Cost: the fastest way's; for a small model's second time that of three rounds of all of them, for a large one's two
    more forward-backward passes.
    """
    model = plan.transition.objective.model
    choices = _chosen.setdefault(model, {})
    # Training and evaluation mode run different operations, so each has a choice of its own.
    key = (exact, model.training, tuple(hybrid.layer.name for hybrid in plan.hybrids))
    if choices.get(key, usual) is None and len(plan.to_run) >= _FEWEST:
        found, choices[key] = _choose(plan, usual, exact=exact)
        yield from found
        return
    way = choices.setdefault(key, None) or usual
    try:
        yield from way(plan)
    except BatchedPassError:  # raised before anything was yielded
        choices[key] = usual
        yield from usual(plan)


def _choose(plan: HybridPlan, usual: Passes, *, exact: bool) -> tuple[GradientsByLayer, Passes]:
    """Return what the usual way finds, and the way to take from now on."""
    num_hybrids = len(plan.to_run)
    first, expected = _timed(usual, plan)
    if exact and usual is full_passes:
        return expected, usual
    if first > num_hybrids * _SMALL_SECONDS:
        # The passes of early layers differentiate more of the net than those of late ones; one and three quarters of
        # the way down they cost about what the average pass does.
        quarters = plan.only({plan.to_run[num_hybrids * part // 4].layer.name for part in (1, 3)})
        full = first if usual is full_passes else _timed(full_passes, quarters)[0] / len(quarters.hybrids) * num_hybrids
        return expected, full_passes if full < first else usual
    stacking = [] if exact else [way for way in _stacking() if _is_right(way, plan, expected)]
    least = dict.fromkeys((usual, full_passes, *stacking), math.inf)
    # In turns, and the least of each: other processes on the machine slow down one round or another, not one way.
    for _ in range(_ROUNDS):
        for way in least:
            with suppress(BatchedPassError):
                least[way] = min(least[way], _timed(way, plan)[0])
    handicap = dict.fromkeys(stacking, _WORTHWHILE)
    return expected, min(least, key=lambda way: least[way] * handicap.get(way, 1))


def _stacking() -> tuple[Passes, ...]:
    """Return the ways that stack hybrids, and round differently."""
    return batched_passes, partial(staircase, features_first=False), partial(staircase, features_first=True)


def _timed(way: Passes, plan: HybridPlan) -> tuple[float, GradientsByLayer]:
    device = plan.transition.loss.device
    _wait(device)
    start = time.perf_counter()
    found = list(way(plan))
    _wait(device)
    return time.perf_counter() - start, found


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _is_right(way: Passes, plan: HybridPlan, expected: GradientsByLayer) -> bool:
    """Return whether half the digits of every layer's gradient are those expected; NaN never is."""
    try:
        found = list(way(plan))
    except BatchedPassError:
        return False
    transition = plan.transition
    tolerance = torch.finfo(transition.loss.dtype).eps ** 0.5
    for (_, wanted), (_, there) in zip(expected, found, strict=True):
        if any((wanted[name] is None) != (there[name] is None) for name in wanted):
            return False
        g, g_there = (vector(each, wanted, like=transition.before) for each in (wanted, there))
        if g and not bool(stats.distance(g, g_there) <= tolerance * stats.norm(g)):
            return False
    return True
