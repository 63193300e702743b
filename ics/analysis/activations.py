"""Distributions of activations: moments, quantiles, distance to a normal distribution, densities on a common grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from ics.analysis import histograms
from ics.analysis.frames import IDENTITY, checked, over_seeds, spread_out
from ics.analysis.histograms import Array, Histogram
from ics.errors import UsageError

KEYS = ("step", "layer", "layer_index", "call", "site")
HISTOGRAM = ("minimum", "maximum", "histogram_bucket", "histogram")
# In standard deviations. Through wider buckets a bell is a handful of steps: a distance would tell of the buckets.
COARSEST = 0.5


def moments(frame: pd.DataFrame) -> pd.DataFrame:
    """Add standard deviation, skewness and excess kurtosis, computed from the stored central moments.

    `std = sqrt(m2)` (biased), `skewness = m3 / m2^1.5`, `excess_kurtosis = m4 / m2^2 - 3`. If the frame has the
    per-channel columns, also `channel_std`, `channel_skewness` and `channel_excess_kurtosis` (arrays). Skewness and
    kurtosis are null where the variance is 0.

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

    A quantile is the order statistic that numpy calls inverted_cdf, within a relative error of 1/32
    (`ics.buckets.RELATIVE_ERROR`) of the values behind the histogram; q = 0 and 1 are the exact extrema. It is null
    where nothing was counted, and for magnitudes above 4.3e9, which the buckets do not tell apart.

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
    No significance is given, because the values of a tensor are not independent draws.

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


def entering(activations: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of what enters each activation function: site scaled where there is one, else preactivation."""
    rows = activations[activations["site"].isin(("scaled", "preactivation"))]
    place = [*(name for name in IDENTITY if name in rows.columns), "step", "layer", "call"]
    has_scaled = (rows["site"] == "scaled").groupby([rows[name] for name in place], dropna=False).transform("any")
    return rows[(rows["site"] == "scaled") | ~has_scaled]


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
    elif not std > 0:  # true for NaN as well, which `std <= 0` is not
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


COLUMNS = (*KEYS, "count", "zero_fraction", *HISTOGRAM)
_PLACE = ("net", "layer", "layer_index", "call", "site")
_FEWEST = 24
_SHARES = ("zero_fraction", "below", "above")


def densities(frame: pd.DataFrame, *, num_points: int = 160, steps: int | Sequence[int] = 6) -> pd.DataFrame:
    """Return the density of each distribution on a grid: a row per run, step, layer, site and grid point.

    Between bucket edges the distribution function is interpolated monotonically (PCHIP), so the density is never
    negative and no mass is made or lost. Values that are exactly 0, as half of what a ReLU returns, have no density:
    they are taken out, and their share of all values is in `zero_fraction`. The density integrates to
    1 - zero_fraction - below - above. All steps and seeds of a net share the grid of a layer and site. It covers the
    bulk: at most 6 half-widths (15.9 % to 84.1 %) around the median. A single exploding step does not stretch it; the
    shares beyond its ends are in `below` and `above`.

    Args:
        frame: rows of the table activations.
        num_points: largest number of grid points, give or take two; few values get fewer (Freedman & Diaconis 1981).
        steps: how many steps, chosen evenly among the recorded ones with the first and the last; or which.

    Returns:
        run, net, seed, step, layer, layer_index, call, site, `x`, `density` (1/value), `zero_fraction`, `below`,
        `above`, `num_values`. Distributions without any value that is not 0 have density 0 throughout.

    Raises:
        SelectionError: a column is missing.
        UsageError: no rows, or none at the steps asked for.
    """
    rows = _at_steps(checked(frame, "activations", COLUMNS), steps)
    rows = rows.assign(_histogram=histograms_of(rows))
    rows = rows[rows["_histogram"].notna()]
    if rows.empty:
        raise UsageError(
            "expected activations with histograms, got rows without any; record them with histogram=True (the default)"
        )
    pieces = [
        piece for _, place in rows.groupby(list(_PLACE), sort=False) for piece in _densities_of_place(place, num_points)
    ]
    return pd.concat(pieces, ignore_index=True)


def ridges(frame: pd.DataFrame, *, num_points: int = 160, steps: int | Sequence[int] = 6) -> pd.DataFrame:
    """Gather `densities` over seeds: the median density over runs per net, step, layer, site and x, with min and max.

    `height`, `height_low` and `height_high` are the density divided by the ridge's highest median, so every ridge has
    height 1 whatever its unit. `num_runs` counts the seeds. Arguments and errors are those of `densities`.
    """
    points = densities(frame, num_points=num_points, steps=steps)
    by = ["net", "step", "layer", "layer_index", "call", "site"]
    result = over_seeds(points, by=[*by, "x"], values=("density", *_SHARES))
    peak = result.groupby(by, sort=False)["density"].transform("max")
    peak = peak.where(peak > 0)
    for end in ("", "_low", "_high"):
        result[f"height{end}"] = result[f"density{end}"] / peak
    return result


def _at_steps(rows: pd.DataFrame, steps: int | Sequence[int]) -> pd.DataFrame:
    if isinstance(steps, int):
        chosen = []
        for _, of_net in rows.groupby("net", sort=False):
            measured = sorted(of_net["step"].unique())
            chosen.append(
                of_net[of_net["step"].isin([measured[position] for position in spread_out(len(measured), steps)])]
            )
        return pd.concat(chosen)
    at = rows[rows["step"].isin(list(steps))]
    if at.empty:
        listed = ", ".join(str(step) for step in sorted(rows["step"].unique())[:8])
        raise UsageError(f"expected steps that were recorded ({listed}, ...), got {list(steps)}")
    return at


def _densities_of_place(place: pd.DataFrame, num_points: int) -> list[pd.DataFrame]:
    """Return a frame per run and step, all of one net, layer, call and site and so on one grid."""
    records = place.to_dict("records")
    parts = [_without_zeros(record["_histogram"], record["zero_fraction"], record["count"]) for record in records]
    edges = _grid([part for part in parts if part is not None], num_points)
    pieces = []
    for record, part in zip(records, parts, strict=True):
        zeros = record["zero_fraction"]
        mass = 1.0 - (0.0 if np.isnan(zeros) else zeros)
        share = np.zeros(len(edges)) if part is None else _distribution(part, edges)
        values = {
            **{name: record[name] for name in (*IDENTITY, *KEYS)},
            "x": (edges[:-1] + edges[1:]) / 2,
            "density": mass * np.diff(share) / np.diff(edges),
            "zero_fraction": zeros,
            "below": mass * share[0],
            "above": 0.0 if part is None else mass * (1.0 - share[-1]),
            "num_values": int(record["_histogram"].total),
        }
        pieces.append(pd.DataFrame(values))
    return pieces


def _without_zeros(histogram: Histogram, zero_fraction: float, count: float) -> Histogram | None:
    """Take the values that are exactly 0 out of the zero bucket; None if no others are left."""
    at_zero = histogram.buckets == 0
    if not zero_fraction > 0 or not at_zero.any():
        return histogram
    total = histogram.total
    left = float(histogram.counts[at_zero].sum()) - zero_fraction * total
    # zero_fraction is of all values, the histogram may be of a sample: a rest that small is the luck of the draw.
    noise = 3 * np.sqrt(total * zero_fraction * (1 - zero_fraction)) if total < count else 0.5
    counts = np.where(at_zero, left if left > noise else 0.0, histogram.counts)
    kept = counts > 0
    if not kept.any():
        return None
    lower, upper = histogram.lower[kept], histogram.upper[kept]
    return Histogram(histogram.buckets[kept], counts[kept], lower, upper, histogram.minimum, histogram.maximum)


def _grid(parts: Sequence[Histogram], num_points: int) -> Array:
    """Return the edges of the grid that all steps of a layer and site share; 0 is one of them if it is inside."""
    if not parts:
        return np.linspace(-0.5, 0.5, num_points + 1)
    bulks = np.array([_bulk(part) for part in parts])
    widths = bulks[:, 1] - bulks[:, 0]
    # Medians over the steps: one exploding step would otherwise squeeze all the others into a few points.
    usual = 3 * np.median(widths)
    low = max(bulks[:, 0].min(), np.median(bulks[:, 0]) - usual)
    high = min(bulks[:, 1].max(), np.median(bulks[:, 1]) + usual)
    # All values alike: a window around the one value, however small or large it is.
    margin = 0.05 * (high - low) if high > low else max(0.5 * abs(high), 1e-30)
    low, high = low - margin, high + margin
    # Freedman and Diaconis: few values carry few points, or the line would show the luck of the draw.
    quartiles = [_inner_quantile(part, 0.75) - _inner_quantile(part, 0.25) for part in parts]
    smallest = 2 * float(np.median(quartiles)) / float(np.median([part.total for part in parts])) ** (1 / 3)
    width = max((high - low) / num_points, min(smallest, (high - low) / _FEWEST))
    # Edges at multiples of the width, so that 0 is one: what follows a ReLU must not seem to have negative values.
    return width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)


def _bulk(part: Histogram) -> tuple[float, float]:
    """Return where nearly all values lie: 0.2 % to 99.8 %, at most 6 half-widths from the median."""
    low, left, middle, right, high = (_inner_quantile(part, q) for q in (0.002, 0.159, 0.5, 0.841, 0.998))
    half = (right - left) / 2
    if half > 0:  # else most values are equal, and 6 half-widths around them would hide the others
        low, high = max(low, middle - 6 * half), min(high, middle + 6 * half)
    return low, high


def _inner_quantile(part: Histogram, q: float) -> float:
    """Return a quantile with the values of a bucket spread evenly over it: finite also in the overflow buckets."""
    share = part.cumulative
    bucket = min(int(np.searchsorted(share, q, side="right")) - 1, len(part.counts) - 1)
    inside = (q - share[bucket]) / (share[bucket + 1] - share[bucket])
    return float(part.lower[bucket] + inside * (part.upper[bucket] - part.lower[bucket]))


def _distribution(part: Histogram, edges: Array) -> Array:
    """Return the distribution function at the edges of the grid, monotonically interpolated between bucket edges."""
    # A bucket that holds one value again and again has no width, and a distribution function no jump: it gets a little.
    narrow = np.maximum(1e-6 * (edges[-1] - edges[0]), 4 * np.spacing(np.abs(part.lower)))
    share = part.cumulative
    upper = np.maximum(part.upper, part.lower + narrow)
    x = np.column_stack([part.lower, upper]).ravel()
    f = np.column_stack([share[:-1], share[1:]]).ravel()
    x = np.maximum.accumulate(x)
    last = np.append(np.diff(x) > 0, True)
    # Of the knots at one place only the last counts; one more in front keeps the first bucket's mass.
    x, f = np.concatenate([[part.lower[0] - narrow[0]], x[last]]), np.concatenate([[0.0], f[last]])
    return np.clip(PchipInterpolator(x, f)(np.clip(edges, x[0], x[-1])), 0.0, 1.0)
