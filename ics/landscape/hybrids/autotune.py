"""Which way to G' is the fastest for a model: found out once, by measurement."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import torch
from torch import nn

from ics import stats
from ics.landscape.hybrids.full_passes import Gradients, Hybrid, full_passes, hybrids
from ics.landscape.hybrids.stacked.batched import BatchedPassError, batched_passes
from ics.landscape.hybrids.stacked.staircase import staircase
from ics.landscape.transition import Transition, vector
from ics.records import Layer

_FEWEST = 3  # hybrids; for fewer there is nothing to gain
_SMALL_SECONDS = 0.05  # a pass that takes longer is not bound by launches, and may not fit into memory several times
_WORTHWHILE = 1.25  # plain passes round as training does: they are left only for a clear gain
_CHUNK = 12
_ROUNDS = 2

Found = list[tuple[Layer, Gradients]]
_Key = tuple[bool, bool, tuple[str, ...]]


class Passes(Protocol):
    """A way to G' of every selected layer: `full_passes` or one that gives the same."""

    def __call__(
        self, transition: Transition, *, layers: Sequence[Layer], selected: Collection[str]
    ) -> Iterator[tuple[Layer, Gradients]]:
        """Yield each selected layer with G'."""


# None: measured once, and nothing chosen yet.
_chosen: weakref.WeakKeyDictionary[nn.Module, dict[_Key, Passes | None]] = weakref.WeakKeyDictionary()


def fastest(
    transition: Transition,
    *,
    layers: Sequence[Layer],
    selected: Collection[str],
    usual: Passes = full_passes,
    exact: bool = False,
) -> Iterator[tuple[Layer, Gradients]]:
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
        transition: W(t) to W(t+1) and the loss.
        layers: all layers, in the order of execution.
        selected: names of the layers wanted.
        usual: the way that is right for any model, and bit-identical to full passes.
        exact: choose among bit-identical ways only. Otherwise the last digits depend on what was faster, and on
            which layers are measured together.

    Cost: the fastest way's; for a small model's second time that of three rounds of all of them, for a large one's two
    more forward-backward passes.
    """
    model = transition.objective.model
    choices = _chosen.setdefault(model, {})
    key = (exact, model.training, tuple(layer.name for layer in layers if layer.name in selected))
    if choices.get(key, usual) is None:
        planned = hybrids(transition, layers=layers, selected=selected)
        to_run = [hybrid for hybrid in planned if hybrid.moved and hybrid.wanted]
        if len(to_run) >= _FEWEST:
            found, choices[key] = _choose(transition, layers, selected, usual, to_run, exact=exact)
            yield from found
            return
    way = choices.setdefault(key, None) or usual
    try:
        yield from way(transition, layers=layers, selected=selected)
    except BatchedPassError:  # raised before anything was yielded
        choices[key] = usual
        yield from usual(transition, layers=layers, selected=selected)


def _choose(
    transition: Transition,
    layers: Sequence[Layer],
    selected: Collection[str],
    usual: Passes,
    to_run: Sequence[Hybrid],
    *,
    exact: bool,
) -> tuple[Found, Passes]:
    """Return what the usual way finds, and the way to take from now on."""

    def seconds(way: Passes, names: Collection[str] = selected) -> tuple[float, Found]:
        return _timed(partial(way, transition, layers=layers, selected=names), transition.loss.device)

    first, expected = seconds(usual)
    if exact and usual is full_passes:
        return expected, usual
    if first > len(to_run) * _SMALL_SECONDS:
        quarters = {to_run[len(to_run) * part // 4].layer.name for part in (1, 3)}
        sample = first if usual is full_passes else seconds(full_passes, quarters)[0] * len(to_run) / len(quarters)
        return expected, full_passes if sample < first else usual
    ways = () if exact else _stacking(len(to_run))
    stacking = [way for way in ways if _is_right(way, transition, layers, selected, expected)]
    least = dict.fromkeys((usual, full_passes, *stacking), math.inf)
    for _ in range(_ROUNDS):
        for way in least:
            with suppress(BatchedPassError):
                least[way] = min(least[way], seconds(way)[0])
    handicap = dict.fromkeys(stacking, _WORTHWHILE)
    return expected, min(least, key=lambda way: least[way] * handicap.get(way, 1))


def _stacking(num_hybrids: int) -> list[Passes]:
    """Return the ways that stack hybrids, and round differently."""
    chunks = sorted({min(_CHUNK, num_hybrids), num_hybrids})
    batched: list[Passes] = [partial(batched_passes, chunk=chunk) for chunk in chunks]
    return batched + [partial(staircase, features_first=features_first) for features_first in (False, True)]


def _timed(run: Callable[[], Iterable[tuple[Layer, Gradients]]], device: torch.device) -> tuple[float, Found]:
    _wait(device)
    start = time.perf_counter()
    found = list(run())
    _wait(device)
    return time.perf_counter() - start, found


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _is_right(
    way: Passes, transition: Transition, layers: Sequence[Layer], selected: Collection[str], expected: Found
) -> bool:
    """Return whether half the digits of every layer's gradient are those expected; NaN never is."""
    try:
        found = list(way(transition, layers=layers, selected=selected))
    except BatchedPassError:
        return False
    tolerance = torch.finfo(transition.loss.dtype).eps ** 0.5
    for (_, wanted), (_, there) in zip(expected, found, strict=True):
        if any((wanted[name] is None) != (there[name] is None) for name in wanted):
            return False
        g, g_there = (vector(each, wanted, like=transition.before) for each in (wanted, there))
        if g and not bool(stats.distance(g, g_there) <= tolerance * stats.norm(g)):
            return False
    return True
