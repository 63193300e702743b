"""How far the values of each channel are from those of a reference: four distances between distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from ics.stats.layout import accumulator_dtype, as_slabs, working_dtype
from ics.stats.moments import Moments, channel_moments, merge


@dataclass(frozen=True, slots=True)
class Distribution:
    """What is kept of the values of each channel: their moments, and a sorted sample.

    Attributes:
        moments: per channel, shape (C,), over all values.
        sample: (C, n), ascending in each row; values at fixed strides, in at least float32.
        resolution: relative spacing of the numbers that the values are stored as.
    """

    moments: Moments
    sample: Tensor
    resolution: float

    @property
    def mean(self) -> Tensor:
        """(C,); NaN where a value is NaN or infinite, since what is left defines no distance."""
        return torch.where(self.moments.nonfinite_count > 0, torch.nan, self.moments.mean)

    @property
    def variance(self) -> Tensor:
        """(C,), biased; NaN where a value is not finite, and for a constant channel.

        A channel is constant where its standard deviation is within the spacing of numbers around its mean: what is
        left then is rounding, and distances in its units would be noise.
        """
        constant = self.moments.m2.sqrt() <= self.resolution * self.moments.mean.abs()
        return torch.where(constant | self.mean.isnan(), torch.nan, self.moments.m2)


def distribution(x: Tensor, *, channel_axis: int, max_values: int = 1024) -> Distribution:
    """Return the distribution of the values of each channel.

    Shapes: any tensor with the axis; results per channel, (C,) and (C, n). Cost: two reads of the tensor and the
    sorting of C * n values; no host synchronisation.

    Args:
        x: float32, float64, bfloat16 or float16 tensor.
        channel_axis: the axis that counts channels; may be negative.
        max_values: at most so many values per channel enter the sample, every k-th of its values with k coprime to
            their number, as a common factor with the width of images would visit the same columns again and again.

    Raises:
        UsageError: the tensor is not real floating, or has no such axis.

    Example:
        >>> distribution(torch.tensor([[3.0], [1.0]]), channel_axis=1).sample.tolist()
        [[1.0, 3.0]]
    """
    slabs = as_slabs(x, channel_axis=channel_axis)
    inner = max(slabs.shape[2], 1)
    size = slabs.shape[0] * slabs.shape[2]
    position = torch.arange(0, size, _stride(size, max_values), device=x.device)
    values = slabs[position // inner, :, position % inner].to(working_dtype(x))
    sample = values.T.contiguous().sort(dim=1).values
    return Distribution(channel_moments(x, channel_axis=channel_axis), sample, torch.finfo(x.dtype).eps)


def union(parts: Sequence[Distribution]) -> Distribution:
    """Return the distribution of the values of several parts together, from one or more with the same channels."""
    if len(parts) == 1:
        return parts[0]
    sample = torch.cat([part.sample for part in parts], dim=1).sort(dim=1).values
    moments = reduce(merge, (part.moments for part in parts))
    return Distribution(moments, sample, max(part.resolution for part in parts))


def mean_shift(now: Distribution, reference: Distribution) -> Tensor:
    """Return |mean - mean_0| / std_0 per channel, 0 the reference; NaN where the reference is constant.

    Shape: (C,), float64. Unit: standard deviations of the reference. Source: docs/science.md, section 3.4.
    """
    return (now.mean - reference.mean).abs() / reference.variance.sqrt()


def log_variance_ratio(now: Distribution, reference: Distribution) -> Tensor:
    """Return |ln(v / v_0)| of the biased variances per channel, 0 the reference; NaN where either is constant.

    Shape: (C,), float64. Unit: 1. Source: docs/science.md, section 3.4.
    """
    return (now.variance / reference.variance).log().abs()


def gaussian_kl(now: Distribution, reference: Distribution) -> Tensor:
    """Return KL(now || reference) of the fitted normals per channel; NaN where either is constant.

    Formula: (v/v_0 + (mean - mean_0)^2/v_0 - 1 - ln(v/v_0)) / 2. Shape: (C,), float64. Unit: nat.
    Source: docs/science.md, section 3.4.
    """
    excess = (now.variance - reference.variance) / reference.variance
    shift = (now.mean - reference.mean) ** 2 / reference.variance
    return (((excess - excess.log1p()) + shift) / 2).clamp(min=0)


def wasserstein_1(now: Distribution, reference: Distribution) -> Tensor:
    """Return the integral of |F - F_0| between the samples, over std_0, per channel.

    NaN where the reference is constant. The samples may differ in size. Shape: (C,), float64. Unit: standard deviations
    of all values of the reference. Source: docs/science.md, section 3.4.

    Example:
        >>> zero_and_two = distribution(torch.tensor([[0.0], [2.0]]), channel_axis=1)
        >>> wasserstein_1(distribution(torch.tensor([[3.0]]), channel_axis=1), zero_and_two).tolist()
        [2.0]
    """
    wide = accumulator_dtype(now.sample.device)
    a, b = now.sample.to(wide), reference.sample.to(wide)
    points = torch.cat([a, b], dim=1).sort(dim=1).values
    below = points[:, :-1].contiguous()
    cumulative = [torch.searchsorted(sample, below, right=True).to(wide) / sample.shape[1] for sample in (a, b)]
    area = ((cumulative[0] - cumulative[1]).abs() * points.diff(dim=1)).sum(dim=1)
    return torch.where(now.mean.isnan(), torch.nan, area / reference.variance.sqrt())


def _stride(size: int, max_values: int) -> int:
    stride = max(-(-size // max_values), 1)
    while size and math.gcd(stride, size) > 1:
        stride += 1
    return stride
