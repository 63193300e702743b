"""`reduce` by every backend against numpy in float64, and against the histogram bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ics.errors import UsageError
from ics.stats import histogram, reduce


def test_shift_and_scale_are_measured_as_if_applied_before():
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    shift, scale = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([2.0, -3.0, 0.0])
    reduced = reduce(x, channel_axis=1, affine=(shift, scale))
    applied = (x.double() - shift.double()[:, None, None]) * scale.double()[:, None, None]
    expected = np.moveaxis(applied.numpy(), 1, 0).reshape(3, -1)
    np.testing.assert_allclose(reduced.moments[1], expected.mean(1), rtol=1e-5)
    np.testing.assert_allclose(reduced.moments[2], expected.var(1), rtol=1e-5)
    rounded = (x - shift[:, None, None]) * scale[:, None, None]
    assert torch.equal(reduced.histogram, histogram(rounded))


def test_shift_and_scale_not_one_per_channel_are_refused_in_a_sentence():
    x, three = torch.zeros(2, 3), torch.zeros(3)
    with pytest.raises(UsageError, match=r"a scale per channel, shape \(3,\), but \(2,\) came; type affine="):
        reduce(x, channel_axis=1, affine=(three, torch.zeros(2)))


def test_no_histogram_on_request_and_no_sample_of_nothing():
    assert reduce(torch.zeros(2, 3), channel_axis=1, histogram=False).histogram is None
    with pytest.raises(UsageError, match="max_values must be at least 1"):
        reduce(torch.zeros(2, 3), channel_axis=1, max_values=0)
