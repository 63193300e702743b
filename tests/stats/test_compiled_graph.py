"""The compiled graph, here through inductor's C++, against numpy in float64."""

from __future__ import annotations

import math

import pytest
import torch

from ics.stats import compiled_graph, histogram, unpack
from tests.stats.test_moments import ASYMPTOTES, check, make


@pytest.mark.slow
def test_the_graph_has_the_same_statistics_and_histogram():
    said: list[str] = []
    reduce = compiled_graph.backend(said.append)
    for size in (7, 40):
        x = make((size, 3, 4, 6), torch.float32)
        x[0, 0, 0, 0], x[0, 1, 0, 0], x[-1, :, 1, 1] = math.nan, -math.inf, -0.0
        moments, counts = reduce(x, 1, ASYMPTOTES, None, 100)
        check(unpack(moments), x, 1, rtol=1e-5, saturation=ASYMPTOTES)
        assert torch.equal(counts, histogram(x, max_values=100))
    assert len(said) == 1, "shapes are dynamic"


def test_a_compiler_that_fails_is_told_once_and_leaves_it_to_others(monkeypatch):
    def broken(graph, slabs, bounds):
        raise RuntimeError("no compiler\nand much more")

    monkeypatch.setattr(compiled_graph, "_run", broken)
    said: list[str] = []
    reduce = compiled_graph.backend(said.append)
    assert [reduce(torch.ones(4, 3), 1, None, None, 0) for _ in range(2)] == [None, None]
    assert len(said) == 2
    assert "compiling failed (RuntimeError: no compiler); statistics on cpu" in said[1]


def test_it_takes_no_empty_and_no_float64_tensors():
    reduce = compiled_graph.backend(lambda sentence: None)
    assert reduce(torch.ones(0, 3), 1, None, None, 0) is None
    assert reduce(torch.ones(2, 3, dtype=torch.float64), 1, None, None, 0) is None
