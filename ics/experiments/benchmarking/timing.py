"""Comparable timings: ways alternate within one process, and ratios are taken within a round.

A machine has slow minutes: another program runs, or the clock is throttled. Ways that are timed one after the other
meet different minutes, and their ratio compares the minutes. Here every round times every way once, and a ratio is
taken within a round, where both sides met the same minute.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ics.errors import UsageError
from ics.experiments.data.examples import Progress

Clock = Callable[[], float]
Seconds = dict[str, list[float]]

_QUIET_SECONDS = 0.03
_QUIET_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Ratio:
    """The time of a way as a multiple of the base, over the rounds.

    Attributes:
        median: median of the rounds' ratios.
        low: lower end of the 95 % interval of that median (`median_interval`); `high` its upper end.
        lower_quartile: a quarter of the rounds had a smaller ratio, and below `upper_quartile` three quarters.
        rounds: number of rounds.
    """

    median: float
    low: float
    high: float
    lower_quartile: float
    upper_quartile: float
    rounds: int


def interleaved(
    ways: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 1,
    calls: int = 1,
    device: torch.device | str = "cpu",
    seconds_limit: float = math.inf,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
    between: Callable[[str], None] | None = None,
) -> Seconds:
    """Return the seconds of one call of every way, a number per round: `{"plain": [...], "recorded": [...]}`.

    Each round times every way once. The order rotates from round to round and is reversed after each full rotation, so
    no way always follows the same one. The function waits for the device before it starts and before it reads the
    clock. Garbage is collected between ways and not during them.

    Args:
        ways: name to a function without arguments.
        rounds: how often each way is timed.
        warmup: calls of every way before the first round, not timed.
        calls: calls of a way in one go, timed together and divided by their number: for ways shorter than a
            millisecond, or whose cost comes in lumps.
        device: where the ways compute.
        seconds_limit: begin no further round after so many seconds, but finish two in any case.
        progress: called as `progress("timing", done, total)` after each round.
        clock: returns seconds.
        between: called with the name of a way after each of its samples, outside the clock: to let what a way left to a
            thread end there, and not in the sample of the next (`wait_until_quiet`).

    Raises:
        UsageError: no way, or fewer than one round, warmup below 0 or calls below 1.
    """
    _check(ways, rounds=rounds, warmup=warmup, calls=calls)
    names = list(ways)
    seconds: Seconds = {name: [] for name in ways}
    for name in names * warmup:
        ways[name]()
        if between is not None:
            between(name)
    started, collecting = clock(), gc.isenabled()
    gc.freeze()  # what is there by now stays, and need not be looked through before every sample
    try:
        for number in range(rounds):
            for name in turns(names, number):
                seconds[name].append(_seconds(ways[name], calls, device, clock))
                if between is not None:
                    between(name)
            if progress is not None:
                progress("timing", number + 1, rounds)
            if number >= 1 and clock() - started > seconds_limit:
                break
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    return seconds


def turns(names: Sequence[str], number: int) -> list[str]:
    """Return the order of round `number`: rotated by one each round, reversed after each full rotation.

    Example:
        >>> [turns("ab", number) for number in range(4)]
        [['a', 'b'], ['b', 'a'], ['b', 'a'], ['a', 'b']]
    """
    shift = number % len(names)
    order = [*names[shift:], *names[:shift]]
    return order[::-1] if number // len(names) % 2 else order


def ratios(seconds: Mapping[str, Sequence[float]], *, base: str) -> dict[str, Ratio]:
    """Return the ratio of every way to `base`, paired within a round.

    Raises:
        UsageError: there is no such way, or the ways have different numbers of rounds.

    Example:
        >>> ratios({"plain": [1.0, 2.0, 4.0], "slow": [2.0, 4.0, 12.0]}, base="plain")["slow"].median
        2.0
    """
    if base not in seconds:
        raise UsageError(f"ratios expects a base among {', '.join(seconds)}, got {base!r}")
    if len({len(values) for values in seconds.values()}) != 1:
        raise UsageError("ratios expects every way timed in every round, got different numbers of rounds")
    found = {}
    for name, values in seconds.items():
        quotients = sorted(value / of for value, of in zip(values, seconds[base], strict=True))
        low, high = median_interval(quotients)
        quartiles = statistics.quantiles(quotients, n=4, method="inclusive") if len(quotients) > 1 else quotients * 3
        found[name] = Ratio(quartiles[1], low, high, quartiles[0], quartiles[2], len(quotients))
    return found


def median_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval that holds the median of the distribution with at least this probability, whatever it is.

    Formula: the j-th smallest and the j-th largest of n values, j the largest with
    `2 P(Binomial(n, 1/2) < j) <= 1 - confidence`; of fewer than 6 values, for which there is none, their range.
    Source: Conover, Practical Nonparametric Statistics, 3rd ed., sec. 3.2.

    Example:
        >>> median_interval(range(10)), median_interval([3.0, 1.0, 2.0])
        ((1, 8), (1.0, 3.0))
    """
    ordered, n = sorted(values), len(values)
    tail, j = 0.0, 0
    while 2 * (tail + math.comb(n, j) / 2**n) <= 1 - confidence:
        tail += math.comb(n, j) / 2**n
        j += 1
    place = max(j - 1, 0)
    return ordered[place], ordered[n - 1 - place]


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what a reader of a timing should know: device, cores, threads, load of the machine, version of torch."""
    on_cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else str(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
    }


def wait_until_quiet(
    *,
    limit: float = 5.0,
    cpu_clock: Clock = time.process_time,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the threads of this process are idle, at most `limit` seconds: pending writes are then done.

    Quiet is when all of them together used less than a tenth of a core for three hundredths of a second.
    """
    end = clock() + limit
    while clock() < end:
        began, used = clock(), cpu_clock()
        sleep(_QUIET_SECONDS)
        if cpu_clock() - used < _QUIET_SHARE * (clock() - began):
            return


def synchronise(device: torch.device | str) -> None:
    """Wait until the device has finished its work; the CPU always has."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


def _seconds(way: Callable[[], Any], calls: int, device: torch.device | str, clock: Clock) -> float:
    gc.collect()
    gc.disable()  # else a collection of the garbage of all ways would be charged to the one that runs
    synchronise(device)
    start = clock()
    for _ in range(calls):
        way()
    synchronise(device)
    return (clock() - start) / calls


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat subnormal numbers as zero: a processor may need ten times as long for them, which would swamp the timing.

    This is a setting of the thread; it is restored at the end.
    """
    # torch can set this but not tell it: half of the smallest normal number shows which it is.
    smallest = torch.full((1,), torch.finfo(torch.float64).smallest_normal, dtype=torch.float64)
    before = bool((smallest / 2 == 0).item())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _check(ways: Mapping[str, object], *, rounds: int, warmup: int, calls: int) -> None:
    if not ways:
        raise UsageError("interleaved expects at least one way to time, got none; type {'plain': step, ...}")
    for name, value, least in (("rounds", rounds, 1), ("warmup", warmup, 0), ("calls", calls, 1)):
        if value < least:
            raise UsageError(f"interleaved expects {name} of at least {least}, got {value}")
