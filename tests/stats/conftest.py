"""The ways to measure a tensor, so that each passes the same tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ics import stats


def _reduced(x, *, channel_axis, saturation=None):
    reduced = stats.reduce(x, channel_axis=channel_axis, saturation=saturation, histogram=False)
    return stats.unpack(reduced.moments, has_asymptotes=saturation is not None)


@pytest.fixture(params=["eager", "fused"])
def backend(request) -> Iterator[str]:
    """Each backend of a CPU in turn, in use."""
    stats.use_backend(request.param)
    assert stats.backend().name == request.param, stats.backend().reason
    yield request.param
    stats.use_backend("auto")


@pytest.fixture
def measure(backend) -> Callable[..., stats.Moments]:
    """`channel_moments`, by each backend in turn."""
    return stats.channel_moments if backend == "eager" else _reduced
