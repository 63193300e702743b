"""Every way of training that the suite compares, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from scripts.bench.suite.ics_ways import ICS
from scripts.bench.suite.nets import Training
from scripts.bench.suite.rivals import RIVALS
from scripts.bench.suite.ways import Running, Way


@contextmanager
def plain(training: Training) -> Iterator[Running]:
    """Train and record nothing."""
    yield Running(training.step)


def all_ways() -> Mapping[str, Way]:
    """Return every way by name; importing this needs none of the other tools."""
    return {
        "plain": Way("plain", "nothing", plain, "plain", 0),
        "plain_again": Way("plain, a second copy", "nothing (what timing alone lets differ)", plain, "plain", 0),
        **ICS,
        **RIVALS,
    }
