"""Peak memory is that of a run in a process of its own."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from ics.errors import UsageError
from ics.experiments.benchmarking.peak_memory import peak_memory

MIB = 2**20


def fails(message: str):
    raise ValueError(message)


def fills(num_bytes: int):
    kept = torch.ones(64 * MIB, dtype=torch.uint8)
    return lambda: kept.max() + torch.ones(num_bytes, dtype=torch.uint8).max()


def test_peak_memory_is_that_of_the_run_and_not_of_the_process_that_asks() -> None:
    here = torch.ones(300 * MIB, dtype=torch.uint8)
    small, large = peak_memory(partial(fills, MIB)), peak_memory(partial(fills, 101 * MIB))
    assert large.added - small.added == pytest.approx(100 * MIB, rel=0.1)
    assert large.held == pytest.approx(small.held, rel=0.1)
    assert large.held >= 64 * MIB
    assert large.added < len(here)


def test_a_run_that_fails_is_a_mistake_with_its_reason() -> None:
    with pytest.raises(UsageError, match="ValueError: no such net"):
        peak_memory(partial(fails, "no such net"))
