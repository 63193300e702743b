"""The statistics that are kept of every tensor: what each is called, how it is packed, stored and explained.

This list is the only place where they are named. The tables of `ics.schema`, the packed tensors of `ics.stats`, the CPU
kernels, the rows of parameters and the columns that are written take names and order from it.

The order is a contract. `count` comes first, then the mean and the powers about it, then the extrema, and last what
adds up over parts of a tensor. The kernels join and pool the last group in one loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ics.columns import Column, DType


@dataclass(frozen=True, slots=True)
class TensorStatistic:
    """One statistic of the finite values of a tensor.

    Attributes:
        name: what it is called while it is measured: field of `ics.stats.Moments`, row of a packed tensor.
        meaning: of the column.
        channel_meaning: of the column per channel.
        unit: of both columns.
        source: paper or page that defines it.
        is_count: whether it is a whole number.
        average: column of the sum divided by `count`, if that is what is stored; else the statistic itself is.
        needs_asymptotes: whether it is defined only for activation functions that are bounded on both sides.
        of_gradient_channels: whether the table `gradients` has it per channel.
    """

    name: str
    meaning: str
    channel_meaning: str
    unit: str = "1"
    source: str = ""
    is_count: bool = False
    average: str | None = None
    needs_asymptotes: bool = False
    of_gradient_channels: bool = False

    @property
    def column(self) -> str:
        """Name of the column; that of the column per channel begins with `channel_`."""
        return self.average or self.name

    @property
    def is_real(self) -> bool:
        """Whether the column holds real numbers, which no values do not have: null where `count` is 0."""
        return self.average is not None or not self.is_count

    def pooled_column(self) -> Column:
        """Return the column over all values."""
        dtype: DType = "float64" if self.is_real else "int64"
        return Column(self.column, dtype, self.meaning, self.unit, self.source)

    def channel_column(self) -> Column:
        """Return the column per channel."""
        dtype: DType = "list<float64>" if self.is_real else "list<int64>"
        return Column(f"channel_{self.column}", dtype, self.channel_meaning, self.unit)


_MOMENTS = (
    TensorStatistic(
        "count",
        "finite values that entered the moments",
        "finite values per channel",
        is_count=True,
        of_gradient_channels=True,
    ),
    TensorStatistic(
        "mean",
        "mean of the finite values",
        "mean per channel",
        "value",
        "docs/science.md, section 3.2",
        of_gradient_channels=True,
    ),
    TensorStatistic(
        "m2",
        "second central moment sum / count (biased variance)",
        "second central moment per channel (biased variance)",
        "value^2",
        of_gradient_channels=True,
    ),
    TensorStatistic(
        "m3",
        "third central moment sum / count",
        "third central moment per channel",
        "value^3",
        of_gradient_channels=True,
    ),
    TensorStatistic(
        "m4",
        "fourth central moment sum / count",
        "fourth central moment per channel",
        "value^4",
        of_gradient_channels=True,
    ),
)

_EXTREMA = (
    TensorStatistic("minimum", "smallest finite value", "smallest finite value per channel", "value"),
    TensorStatistic("maximum", "largest finite value", "largest finite value per channel", "value"),
)

_SUMS = (
    TensorStatistic(
        "zero_count",
        "fraction of the finite values that are exactly 0",
        "fraction of zeros per channel",
        is_count=True,
        average="zero_fraction",
    ),
    TensorStatistic(
        "negative_count",
        "fraction of the finite values below 0",
        "fraction of negative values per channel",
        is_count=True,
        average="negative_fraction",
    ),
    TensorStatistic(
        "saturated_count",
        "fraction of the finite values within 1 % of the range from an asymptote of the activation function; null for "
        "sites other than activation and for functions that are not bounded on both sides",
        "saturated fraction per channel; null as saturated_fraction",
        is_count=True,
        average="saturated_fraction",
        needs_asymptotes=True,
    ),
    TensorStatistic(
        "nonfinite_count",
        "values that are NaN or infinite",
        "values that are NaN or infinite, per channel",
        is_count=True,
    ),
)

TENSOR_STATISTICS = (*_MOMENTS, *_EXTREMA, *_SUMS)

PACKED_ROWS = tuple(statistic.name for statistic in TENSOR_STATISTICS)
"""Their names, in the order of the rows of a packed tensor (rows, channels)."""

FIRST_SUM = len(_MOMENTS) + len(_EXTREMA)
"""Number of the first row that adds up over parts of a tensor; so do all rows after it."""


def columns_that(*, need_asymptotes: bool) -> Iterator[str]:
    """Yield the columns, those per channel included, of the statistics that need asymptotes, or of all others."""
    for statistic in TENSOR_STATISTICS:
        if statistic.needs_asymptotes is need_asymptotes:
            yield from (statistic.column, f"channel_{statistic.column}")
