"""Timing: turns, ratios within a round, intervals of a median, quiet between samples."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import scipy.stats
import torch

from ics.errors import UsageError
from ics.experiments.benchmarking.timing import interleaved, machine, median_interval, ratios, turns, wait_until_quiet


class FakeClock:
    """A clock that ways move on by themselves, on a machine that slows down."""

    def __init__(self) -> None:
        self.now = 0.0
        self.speed = 1.0

    def __call__(self) -> float:
        return self.now

    def way(self, seconds: float):
        def run() -> None:
            self.now += seconds * self.speed

        return run


def test_every_round_times_every_way_and_ratios_are_free_of_the_machines_slow_minutes() -> None:
    clock = FakeClock()

    def slower_and_slower(what: str, done: int, total: int) -> None:
        assert (what, total) == ("timing", 9)
        clock.speed = 3.0**done

    ways = {"plain": clock.way(2.0), "light": clock.way(2.5), "full": clock.way(5.0)}
    seconds = interleaved(ways, rounds=9, warmup=0, progress=slower_and_slower, clock=clock)
    assert seconds["plain"] == pytest.approx([2.0 * 3.0**number for number in range(9)])
    found = ratios(seconds, base="plain")
    assert found["plain"].median == found["plain"].low == found["plain"].high == 1
    assert found["light"].median == pytest.approx(1.25)
    assert found["full"].upper_quartile == pytest.approx(2.5)
    assert found["full"].rounds == 9


def test_warmup_is_not_timed_and_several_calls_are_timed_together() -> None:
    clock = FakeClock()
    calls = []

    def step() -> None:
        calls.append(None)
        clock.now += 100.0 if len(calls) <= 2 else 1.0

    assert interleaved({"step": step}, rounds=3, warmup=2, calls=5, clock=clock) == {"step": [1.0, 1.0, 1.0]}
    assert len(calls) == 2 + 3 * 5


def test_a_limit_of_seconds_ends_the_rounds_but_leaves_two() -> None:
    clock = FakeClock()
    seconds = interleaved({"a": clock.way(1.0)}, rounds=50, warmup=0, seconds_limit=10.5, clock=clock)
    assert len(seconds["a"]) == 11
    assert len(interleaved({"a": clock.way(1.0)}, rounds=50, seconds_limit=0.0, clock=clock)["a"]) == 2


def test_what_is_done_between_samples_is_not_timed() -> None:
    clock, seen = FakeClock(), []

    def between(name: str) -> None:
        seen.append(name)
        clock.now += 1000.0

    seconds = interleaved({"a": clock.way(1.0), "b": clock.way(2.0)}, rounds=2, clock=clock, between=between)
    assert seconds == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    assert seen == ["a", "b", "a", "b", "b", "a"]


def quiet_after(busy: int, **options: float) -> int:
    """Wait while other threads use a whole core for so many naps; return how many naps were taken."""
    clock, cpu, naps = FakeClock(), FakeClock(), []

    def sleep(seconds: float) -> None:
        clock.now += seconds
        cpu.now += seconds if len(naps) < busy else 0.05 * seconds
        naps.append(seconds)

    wait_until_quiet(cpu_clock=cpu, clock=clock, sleep=sleep, **options)
    return len(naps)


def test_quiet_is_when_no_thread_works_any_more() -> None:
    assert [quiet_after(busy) for busy in (0, 1, 7)] == [1, 2, 8]
    assert quiet_after(10**9, limit=0.5) == pytest.approx(0.5 / 0.03, abs=1)


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_each_way_takes_each_place_equally_often(num: int) -> None:
    names = list("abcde"[:num])
    orders = [turns(names, number) for number in range(2 * num)]
    assert all(sorted(order) == names for order in orders)
    for place in range(num):
        assert all([order[place] for order in orders].count(name) == 2 for name in names)


def test_no_garbage_is_collected_while_a_way_runs_and_what_was_set_is_put_back() -> None:
    states = []
    interleaved({"a": lambda: states.append(gc.isenabled())}, rounds=2, warmup=0)
    assert states == [False, False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        interleaved({"a": lambda: 1 / 0}, rounds=1, warmup=0)
    assert gc.isenabled()


@pytest.mark.parametrize("n", [6, 9, 25, 60])
def test_the_interval_of_a_median_is_the_narrowest_pair_of_order_statistics_that_holds(n: int) -> None:
    low, high = median_interval(list(range(n)))
    assert low + high == n - 1
    # The number of values below the median is Binomial(n, 1/2): it is missed if at most `low` of them lie on one side.
    assert 2 * scipy.stats.binom.cdf(low, n, 0.5) <= 0.05
    assert 2 * scipy.stats.binom.cdf(low + 1, n, 0.5) > 0.05


def test_the_interval_covers_the_median_of_a_skewed_distribution() -> None:
    draws = np.random.default_rng(0).exponential(size=(2000, 15))
    intervals = [median_interval(row) for row in draws.tolist()]
    covered = np.mean([low <= np.log(2) <= high for low, high in intervals])
    assert 0.95 <= covered < 0.985  # 15 values: 0.965


def test_quartiles_are_numpys() -> None:
    values = np.random.default_rng(1).uniform(1, 2, size=11)
    found = ratios({"a": [1.0] * 11, "b": values.tolist()}, base="a")["b"]
    wanted = np.quantile(values, [0.25, 0.5, 0.75])
    assert [found.lower_quartile, found.median, found.upper_quartile] == pytest.approx(wanted.tolist(), rel=1e-14)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: interleaved({}, rounds=1), "at least one way"),
        (lambda: interleaved({"a": print}, rounds=0), "rounds of at least 1, got 0"),
        (lambda: interleaved({"a": print}, rounds=1, calls=0), "calls of at least 1, got 0"),
        (lambda: ratios({"a": [1.0]}, base="b"), "got 'b'"),
        (lambda: ratios({"a": [1.0], "b": [1.0, 2.0]}, base="a"), "different numbers of rounds"),
    ],
)
def test_a_mistake_gets_one_sentence(call, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        call()


def test_a_timing_is_read_beside_its_machine() -> None:
    found = machine()
    assert found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__
