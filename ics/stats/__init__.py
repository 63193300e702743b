"""Pure tensor -> tensor statistics: moments per channel and pooled, histograms, vectors."""

from ics.stats.histogram import histogram
from ics.stats.layout import as_channels, default_channel_axis
from ics.stats.moments import Moments, channel_moments, columns, merge, pool
from ics.stats.vectors import cosine, distance, dot, norm

__all__ = [
    "Moments",
    "as_channels",
    "channel_moments",
    "columns",
    "cosine",
    "default_channel_axis",
    "distance",
    "dot",
    "histogram",
    "merge",
    "norm",
    "pool",
]
