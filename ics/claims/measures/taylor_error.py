"""How far the loss departs from its tangent plane, from the rows of gradient_line; shared by C14 and C20."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

TAYLOR_COLUMNS = (
    "step",
    "layer",
    "direction",
    "draw",
    "eta",
    "distance",
    "loss",
    "gradient_norm",
    "predicted_change",
    "taylor_error",
    "learning_rate",
)
"""The columns of gradient_line that the functions below look at."""

_LINE = ["net", "seed", "step", "direction", "draw"]


def at_learning_rate(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the row of each line whose step size is nearest to the learning rate, by their ratio.

    `error` is its Taylor error |L(w + d) - L(w) - g.d| / |g.d|. It is null if g.d is 0 or below the resolution of the
    loss, and infinite if the loss is not finite.
    """
    probes = rows[(rows["eta"] > 0) & (rows["learning_rate"] > 0)]
    away = (probes["eta"] / probes["learning_rate"]).map(math.log).abs()
    nearest = probes.loc[away.groupby([probes[name] for name in _LINE]).idxmin()]
    return nearest.assign(error=nearest["taylor_error"].where(np.isfinite(nearest["loss"]), np.inf))


def departures(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with eta > 0, with `departure` = |L(w + d) - L(w) - g.d|; infinite where the loss is not finite.

    Departures are in the unit of the loss. On a quadratic they are d.Hd / 2 in size.
    """
    start = rows[rows["eta"] == 0].groupby(_LINE)["loss"].first().rename("start")
    probes = rows[rows["eta"] > 0].merge(start, left_on=_LINE, right_index=True)
    departure = (probes["loss"] - probes["start"] - probes["predicted_change"]).abs()
    return probes.assign(departure=departure.where(np.isfinite(departure), np.inf))


def departure_at(line: pd.DataFrame, distance: float) -> float:
    """Return the departure at a distance of one line, between its probes.

    The interpolated quantity is departure / distance^2, half the mean curvature on the way, which hardly changes along
    a short line. This is exact on a quadratic, even nearer than the first probe. The result is infinite if a probe on
    either side is.
    """
    ordered = line.sort_values("distance")
    places, values = ordered["distance"].to_numpy(float), ordered["departure"].to_numpy(float)
    moved = places > 0
    places, values = places[moved], values[moved]
    if not len(places):
        return float("nan")
    # Slightly less than the distance: a probe meant to lie at it may be a rounding error nearer.
    beyond = min(int(np.searchsorted(places, distance * (1 - 1e-12))), len(places) - 1)
    if not np.isfinite(values[: beyond + 1]).all():
        return float("inf")
    # Only probes up to the one beyond `distance` had to be finite; interpolation must not see an infinite one after it.
    finite = np.isfinite(values)
    return float(np.interp(distance, places[finite], values[finite] / places[finite] ** 2)) * distance**2
