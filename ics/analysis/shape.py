"""The shape of distributions: standardised moments, quantiles and the distance to a normal distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ics.analysis import histograms
from ics.analysis.frames import IDENTITY, checked
from ics.analysis.histograms import Histogram
from ics.errors import UsageError

KEYS = ("step", "layer", "layer_index", "call", "site")
HISTOGRAM = ("minimum", "maximum", "histogram_bucket", "histogram")
COARSEST = 0.5


def moments(frame: pd.DataFrame) -> pd.DataFrame:
    """Add what the stored central moments say: standard deviation, skewness and excess kurtosis.

    `std = sqrt(m2)` (biased), `skewness = m3 / m2^1.5`, `excess_kurtosis = m4 / m2^2 - 3`; with the per-channel
    columns there, also `channel_std`, `channel_skewness` and `channel_excess_kurtosis` (arrays). Where the variance
    is 0, skewness and kurtosis are null.

    Args:
        frame: rows of the table activations, or of gradients.

    Raises:
        SelectionError: m2, m3 or m4 is missing.
        UsageError: no rows.

    Example:
        >>> moments(pd.DataFrame({"m2": [4.0], "m3": [8.0], "m4": [48.0]}))[["std", "skewness", "excess_kurtosis"]]
           std  skewness  excess_kurtosis
        0  2.0       1.0              0.0
    """
    result = checked(frame, "activations", ("m2", "m3", "m4"))
    std, skewness, kurtosis = _standardised(*(result[name].to_numpy(np.float64, na_value=np.nan) for name in _MOMENTS))
    result = result.assign(std=std, skewness=skewness, excess_kurtosis=kurtosis)
    if {"channel_m2", "channel_m3", "channel_m4"} <= set(result.columns):
        cells = [
            _standardised(*(as_array(cell) for cell in row))
            for row in zip(result["channel_m2"], result["channel_m3"], result["channel_m4"], strict=True)
        ]
        for number, name in enumerate(("channel_std", "channel_skewness", "channel_excess_kurtosis")):
            result[name] = pd.Series([cell[number] for cell in cells], index=result.index, dtype=object)
    return result


def quantiles(frame: pd.DataFrame, *, q: Sequence[float] = (0.15, 0.5, 0.85)) -> pd.DataFrame:
    """Add a column per quantile, `q15`, `q50`, `q85`, read off the histogram (Ioffe & Szegedy 2015, Fig. 1).

    The order statistic numpy calls inverted_cdf, within a relative error of 1/32 (`ics.buckets.RELATIVE_ERROR`) of the
    values the histogram was taken from; q = 0 and 1 are the exact extrema. Null where nothing was counted, and for
    magnitudes above 4.3e9, which the buckets do not tell apart.

    Raises:
        SelectionError: a column is missing.
        UsageError: no rows, or a q outside [0, 1].
    """
    outside = [value for value in q if not 0 <= value <= 1]
    if outside:
        raise UsageError(
            f"a quantile lies between 0 and 1, got {outside[0]!r}; type q=(0.15, 0.5, 0.85) for percentiles"
        )
    result = checked(frame, "activations", HISTOGRAM)
    rows = [
        [np.nan] * len(q) if histogram is None else [histograms.quantile(histogram, value) for value in q]
        for histogram in histograms_of(result)
    ]
    values = np.array(rows, dtype=np.float64).reshape(len(result), len(q))
    return result.assign(**{f"q{100 * value:g}": values[:, number] for number, value in enumerate(q)})


def normality(frame: pd.DataFrame) -> pd.DataFrame:
    """Measure how far each distribution is from the normal one with its own mean and variance.

    Per row of activations: `skewness` and `excess_kurtosis` (pooled; both 0 for a normal distribution);
    `channel_skewness` and `channel_excess_kurtosis` (median over channels of the absolute value: pooling channels of
    different means makes a mixture, which is not normal though each channel may be); `ks`, the Kolmogorov-Smirnov
    distance sup |F - Phi|, read off the histogram: the true one lies between `ks` and `ks_upper`; `wasserstein_2` to
    the fitted normal in units of the standard deviation, at most `wasserstein_2_error` off; `num_values` counted.
    A significance is not given: the values of a tensor are no independent draws.

    Null with a reason in `normality_reason` where the variance is 0, nothing was counted, or the buckets are too wide
    for the shape to be seen (root mean square width above half a standard deviation: a large mean and a small spread).

    Raises:
        SelectionError: a column is missing.
        UsageError: no rows.
    """
    rows = moments(checked(frame, "activations", ("mean", *_MOMENTS, *HISTOGRAM)))
    keys = [name for name in (*IDENTITY, *KEYS) if name in rows.columns]
    result = rows[[*keys, "mean", "std", "skewness", "excess_kurtosis"]].copy()
    for name in ("channel_skewness", "channel_excess_kurtosis"):
        cells = rows[name] if name in rows.columns else [None] * len(rows)
        result[name] = [_median_size(cell) for cell in cells]
    distances = [
        _distance_to_normal(histogram, mean=mean, std=std)
        for histogram, mean, std in zip(histograms_of(rows), result["mean"], result["std"], strict=True)
    ]
    return pd.concat([result, pd.DataFrame(distances, index=result.index)], axis=1)


def histograms_of(frame: pd.DataFrame) -> pd.Series:
    """Return the `Histogram` of each row, None where there is none."""
    cells = (frame[name] for name in ("histogram_bucket", "histogram", "minimum", "maximum"))
    found = [
        histograms.from_cells(buckets, counts, minimum=as_number(low), maximum=as_number(high))
        for buckets, counts, low, high in zip(*cells, strict=True)
    ]
    return pd.Series(found, index=frame.index, dtype=object)


def too_coarse(histogram: Histogram, std: float) -> bool:
    """Whether the buckets are too wide for a distribution of this standard deviation."""
    return histograms.resolution(histogram) > COARSEST * std


def as_number(cell: Any) -> float:
    """Return a cell as a float, null as NaN."""
    return float("nan") if cell is None or cell is pd.NA else float(cell)


def as_array(cell: Any) -> NDArray[np.float64]:
    """Return a list cell as an array, null as an empty one and null members as NaN."""
    if cell is None or np.isscalar(cell):
        return np.empty(0)
    return np.array([np.nan if value is None else value for value in cell], dtype=np.float64)


_MOMENTS = ("m2", "m3", "m4")


def _standardised(
    m2: NDArray[np.float64], m3: NDArray[np.float64], m4: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    std = np.sqrt(m2)
    # Tiny variances underflow when raised to a power: divide by std step by step instead.
    scale = np.where(std > 0, std, np.nan)
    return std, m3 / scale / scale / scale, m4 / scale / scale / scale / scale - 3


def _median_size(cell: Any) -> float:
    sizes = np.abs(as_array(cell))
    sizes = sizes[~np.isnan(sizes)]
    return float(np.median(sizes)) if len(sizes) else float("nan")


def _distance_to_normal(histogram: Histogram | None, *, mean: float, std: float) -> Mapping[str, Any]:
    reason = None
    if histogram is None:
        reason = "no histogram was recorded"
    elif not std > 0:
        reason = "the variance is 0 or null"
    elif too_coarse(histogram, std):
        reason = "the histogram's buckets are wider than half a standard deviation"
    if reason or histogram is None:
        nulls = dict.fromkeys(("ks", "ks_upper", "wasserstein_2", "wasserstein_2_error"), float("nan"))
        return {**nulls, "num_values": 0 if histogram is None else int(histogram.total), "normality_reason": reason}
    ks, ks_upper = histograms.kolmogorov_smirnov(histogram, mean=mean, std=std)
    return {
        "ks": ks,
        "ks_upper": ks_upper,
        "wasserstein_2": histograms.wasserstein_2_to_normal(histogram, mean=mean, std=std),
        "wasserstein_2_error": histograms.resolution(histogram) / std,
        "num_values": int(histogram.total),
        "normality_reason": None,
    }
