"""Densities of recorded distributions on a common grid: the data of a ridge plot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from ics.analysis.frames import IDENTITY, checked, over_seeds, spread_out
from ics.analysis.histograms import Array, Histogram
from ics.analysis.shape import HISTOGRAM, KEYS, histograms_of
from ics.errors import UsageError

COLUMNS = (*KEYS, "count", "zero_fraction", *HISTOGRAM)
_PLACE = ("net", "layer", "layer_index", "call", "site")
_FEWEST = 24
_SHARES = ("zero_fraction", "below", "above")


def densities(frame: pd.DataFrame, *, num_points: int = 160, steps: int | Sequence[int] = 6) -> pd.DataFrame:
    """Return the density of each distribution on a grid: a row per run, step, layer, site and grid point.

    Between bucket edges the distribution function is interpolated monotonically (PCHIP), so the density is never
    negative and no mass is made or lost. Values that are exactly 0, as half of what a ReLU returns, have no density:
    they are taken out and their share of all values stands apart in `zero_fraction`, and the density integrates to
    1 - zero_fraction - below - above. The grid of a layer and site is the same for all steps and seeds of a net. It
    covers the bulk: at most 6 half-widths (15.9 % to 84.1 %) around the median, and a single exploding step
    does not stretch it; the shares beyond its ends are in `below` and `above`.

    Args:
        frame: rows of the table activations.
        num_points: most points of a grid, one or two aside; fewer values carry fewer (Freedman & Diaconis 1981).
        steps: how many steps, evenly chosen among the recorded ones with the first and the last; or which.

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
    """Gather `densities` over seeds: per net, step, layer, site and x the median density, its min and max over runs.

    `height`, `height_low` and `height_high` are the density divided by the ridge's highest median, so that a ridge is
    one high whatever its unit. `num_runs` counts the seeds. Arguments and errors as `densities`.
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
            known = sorted(of_net["step"].unique())
            chosen.append(of_net[of_net["step"].isin([known[position] for position in spread_out(len(known), steps)])])
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
    return width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)


def _bulk(part: Histogram) -> tuple[float, float]:
    """Return where nearly all values lie: 0.2 % to 99.8 %, at most 6 half-widths from the median."""
    low, left, middle, right, high = (_inner_quantile(part, q) for q in (0.002, 0.159, 0.5, 0.841, 0.998))
    half = (right - left) / 2
    if half > 0:
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
