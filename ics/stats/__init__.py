"""Pure tensor -> tensor statistics: moments per channel and pooled, histograms, distances, vectors."""

from ics.stats.backends import Backend, backend, use_backend
from ics.stats.distances import (
    Distribution,
    distribution,
    gaussian_kl,
    log_variance_ratio,
    mean_shift,
    union,
    wasserstein_1,
)
from ics.stats.group import Group, GroupStatistics, Task, group_of
from ics.stats.histogram import histogram
from ics.stats.layout import as_channels, default_channel_axis
from ics.stats.moments import Moments, channel_moments, merge, pool
from ics.stats.normalization import SUMS, backward_sums
from ics.stats.packed import PACKED, columns, columns_of, merged, pack, unpack
from ics.stats.reduction import Reduced, pooled, reduce
from ics.stats.vectors import cosine, distance, distances, dot, norm, norms

__all__ = [
    "PACKED",
    "SUMS",
    "Backend",
    "Distribution",
    "Group",
    "GroupStatistics",
    "Moments",
    "Reduced",
    "Task",
    "as_channels",
    "backend",
    "backward_sums",
    "channel_moments",
    "columns",
    "columns_of",
    "cosine",
    "default_channel_axis",
    "distance",
    "distances",
    "distribution",
    "dot",
    "gaussian_kl",
    "group_of",
    "histogram",
    "log_variance_ratio",
    "mean_shift",
    "merge",
    "merged",
    "norm",
    "norms",
    "pack",
    "pool",
    "pooled",
    "reduce",
    "union",
    "unpack",
    "use_backend",
    "wasserstein_1",
]
