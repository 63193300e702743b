"""Distributions from stored histograms: order statistics, distribution functions and distances between them.

A stored histogram says how many values fell into each bucket of `ics.buckets`. The distribution function is known
exactly at the edges of the buckets. Within a bucket, values are assumed to be spread evenly; `resolution` bounds the
error of that assumption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ics.buckets import LARGEST, OVERFLOW, bucket_edges

Array = NDArray[np.float64]

_ALL_EDGES = np.array([bucket_edges(bucket) for bucket in range(-OVERFLOW, OVERFLOW + 1)])


@dataclass(frozen=True, slots=True)
class Histogram:
    """The buckets of one tensor that are not empty, in ascending order.

    Attributes:
        buckets: signed bucket numbers.
        counts: values in each bucket.
        lower, upper: edges of each bucket, moved inwards to the smallest and the largest value of the tensor.
        minimum, maximum: those values.
    """

    buckets: NDArray[np.int64]
    counts: Array
    lower: Array
    upper: Array
    minimum: float
    maximum: float

    @property
    def total(self) -> float:
        """Number of values counted; less than the tensor holds where the histogram is of a sample."""
        return float(self.counts.sum())

    @property
    def cumulative(self) -> Array:
        """Share of the values up to and including each bucket, with 0 in front: shape (buckets + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.counts)]) / self.total


def from_cells(
    buckets: Sequence[int] | None, counts: Sequence[int] | None, *, minimum: float, maximum: float
) -> Histogram | None:
    """Return the histogram of a row (columns histogram_bucket, histogram, minimum, maximum); None if it has no values.

    Example:
        >>> h = from_cells([513, 514], [3, 1], minimum=1.0, maximum=1.1)
        >>> h.lower.tolist(), h.upper.tolist(), h.cumulative.tolist()
        ([1.0, 1.0625], [1.0625, 1.1], [0.0, 0.75, 1.0])
    """
    if _is_null(buckets) or _is_null(counts):
        return None
    numbers, weights = np.asarray(buckets, dtype=np.int64), np.asarray(counts, dtype=np.float64)
    order = np.argsort(numbers)
    numbers, weights = numbers[order], weights[order]
    numbers, weights = numbers[weights > 0], weights[weights > 0]
    if not len(numbers):
        return None
    low = minimum if np.isfinite(minimum) else -np.inf
    high = maximum if np.isfinite(maximum) else np.inf
    edges = np.clip(_ALL_EDGES[numbers + OVERFLOW], low, high)
    # An overflow bucket of a row without extrema still has no end: it is given the last edge that is known.
    edges = np.clip(edges, -LARGEST if not np.isfinite(low) else None, LARGEST if not np.isfinite(high) else None)
    return Histogram(numbers, weights, edges[:, 0], edges[:, 1], minimum, maximum)


def quantile(histogram: Histogram, q: float) -> float:
    """Return the value below or at which the share `q` lies (the order statistic numpy calls inverted_cdf).

    It is the midpoint of the bucket that holds it, so within `ics.buckets.RELATIVE_ERROR` (1/32) of the true one, and
    within 2^-32 for magnitudes below that; q = 0 and 1 give the exact extrema. Beyond the range of the buckets
    (4.3e9) it is not known: NaN.
    """
    if q <= 0:
        return float(histogram.minimum)
    if q >= 1:
        return float(histogram.maximum)
    # Less a little: in floating point 0.07 * 100 is just above 7, and the eighth value would be taken.
    rank = max(np.ceil(q * histogram.total - 1e-9), 1.0)
    bucket = int(histogram.buckets[np.searchsorted(np.cumsum(histogram.counts), rank)])
    if abs(bucket) == OVERFLOW:
        return float("nan")
    low, high = bucket_edges(bucket)
    return float(np.clip((low + high) / 2, histogram.minimum, histogram.maximum))


def resolution(histogram: Histogram) -> float:
    """Return the root mean square bucket width, which bounds the error of the Wasserstein-1 and -2 distances here.

    If each value moves within its bucket, the distribution moves by at most this much in Wasserstein-2, and therefore
    in Wasserstein-1. The triangle inequality carries the bound over to distances.
    """
    width = histogram.upper - histogram.lower
    return float(np.sqrt(np.sum(histogram.counts * width**2) / histogram.total))


def kolmogorov_smirnov(histogram: Histogram, *, mean: float, std: float) -> tuple[float, float]:
    """Return bounds of sup_x |F(x) - Phi((x - mean) / std)|, F the distribution of the values counted.

    The lower bound is the largest difference at a bucket edge, where F is known. The upper bound is the largest that
    any placement of the values within their buckets could give. The true distance lies between them.
    """
    share = histogram.cumulative
    at_lower = special.ndtr((histogram.lower - mean) / std)
    at_upper = special.ndtr((histogram.upper - mean) / std)
    at_edges = max(np.max(np.abs(share[:-1] - at_lower)), np.max(np.abs(share[1:] - at_upper)))
    at_most = max(np.max(share[1:] - at_lower), np.max(at_upper - share[:-1]))
    return float(at_edges), float(at_most)


def wasserstein_2_to_normal(histogram: Histogram, *, mean: float, std: float) -> float:
    """Return the Wasserstein-2 distance to N(mean, std^2) in units of `std`: sqrt(int_0^1 (F^-1(u) - Phi^-1(u))^2 du).

    Closed form per bucket, F^-1 being linear there: with z = Phi^-1(u), int z du = -phi(z) and
    int u z du = -u phi(z) + Phi(sqrt(2) z) / (2 sqrt(pi)).
    """
    low, high = (histogram.lower - mean) / std, (histogram.upper - mean) / std
    u = histogram.cumulative
    mass = np.diff(u)
    z = special.ndtri(u)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    first = -np.diff(density)
    second = np.diff(-u * density + special.ndtr(np.sqrt(2) * z) / (2 * np.sqrt(np.pi)))
    slope = (high - low) / mass
    crossed = np.sum((low - slope * u[:-1]) * first + slope * second)
    own = np.sum(mass * (low**2 + low * high + high**2) / 3)
    # The 1 is the integral of z^2. For values that are normal, rounding may leave a square below 0.
    return float(np.sqrt(max(own + 1.0 - 2.0 * crossed, 0.0)))


def wasserstein_1(a: Histogram, b: Histogram) -> float:
    """Return the Wasserstein-1 distance int_0^1 |F_a^-1(u) - F_b^-1(u)| du, in the unit of the values."""
    # Between two neighbours of these shares both inverse functions are linear, so the integral is exact.
    u = np.union1d(a.cumulative, b.cumulative)
    middle = (u[:-1] + u[1:]) / 2
    half = np.diff(u) / 2
    value_a, slope_a = _inverse(a, middle)
    value_b, slope_b = _inverse(b, middle)
    centre, rise = value_a - value_b, np.abs(slope_a - slope_b) * half
    # |linear| over an interval: width * |centre| unless it changes sign within, then the two triangles.
    crosses = np.abs(centre) < rise
    straight = 2 * half * np.abs(centre)
    triangles = half * (centre**2 + rise**2) / np.where(rise > 0, rise, 1.0)
    return float(np.sum(np.where(crosses, triangles, straight)))


def _inverse(histogram: Histogram, u: Array) -> tuple[Array, Array]:
    """Return F^-1(u) and its slope at shares `u` that lie within buckets, not on their edges."""
    share = histogram.cumulative
    bucket = np.clip(np.searchsorted(share, u, side="right") - 1, 0, len(histogram.counts) - 1)
    slope = (histogram.upper - histogram.lower)[bucket] / np.diff(share)[bucket]
    return histogram.lower[bucket] + slope * (u - share[bucket]), slope


def _is_null(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and np.isnan(cell))
