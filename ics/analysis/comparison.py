"""Two nets compared: a ratio per measure, with its interval over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ics.analysis.gradient_line import common_etas
from ics.analysis.run_measures import measure_named, run_measures
from ics.analysis.run_tables import as_runs, read
from ics.analysis.step_measures import BANDS
from ics.store import Run, Runs

CONFIDENCE = 0.95
NUM_RESAMPLES = 9999
# A percentile bootstrap of nominally 95 % covers about 83 % with 5 seeds and 70 % with 3: below 5, pages warn of it.
FEW_SEEDS = 5

Array = NDArray[np.float64]


def compare(runs_a: Run | Iterable[Run], runs_b: Run | Iterable[Run], *, seed: int = 0) -> pd.DataFrame:
    """Compare the runs of two nets, measure by measure.

    `a` and `b` are geometric means over seeds (arithmetic means where `ratio` is not defined). `ratio` is b / a, and
    `low`, `high` are its 95 % percentile bootstrap interval over seeds (`scipy.stats.bootstrap`, 9999 resamples of the
    logarithms). If two or more seeds have a value on both sides, only those enter, paired by seed (`paired` is true and
    `n` counts pairs). Otherwise all runs enter unpaired, and `n` is the smaller number of runs. With one run on a side
    there is no interval. With fewer than 5 seeds it covers less than it says; with 2 it is just their range. Measures
    along the gradient use the step sizes at which both nets were probed.

    Args:
        runs_a, runs_b: opened runs of the one and of the other net.
        seed: of the resampling, so that the same runs give the same interval.

    Returns:
        A row per measure: `measure`, `a`, `b`, `ratio`, `low`, `high`, `n`, `paired`, `meaning`, `unit`,
        `null_reason` (why ratio or interval is null).

    Raises:
        UsageError: no runs were given.
    """
    a, b = as_runs(runs_a), as_runs(runs_b)
    etas = equal_etas(a, b)
    of_a, of_b = run_measures(a, etas=etas), run_measures(b, etas=etas)
    names = list(dict.fromkeys([*of_a["measure"], *of_b["measure"]]))
    rows = []
    for name in names:
        one, other = (frame[frame["measure"] == name] for frame in (of_a, of_b))
        row = _compared(one, other, has_ratio=measure_named(name).has_ratio, seed=seed)
        # A longer line finds a larger maximum: probed at different step sizes, the rougher net may seem the smoother.
        if etas is None and name in BANDS:
            reason = (
                row["null_reason"] or "no step size was probed in both nets, so that their landscapes compare at none"
            )
            row |= {"ratio": np.nan, "low": np.nan, "high": np.nan, "null_reason": reason}
        rows.append({"measure": name, **row, "meaning": measure_named(name).meaning, "unit": measure_named(name).unit})
    order = ["measure", "a", "b", "ratio", "low", "high", "n", "paired", "meaning", "unit", "null_reason"]
    return pd.DataFrame(rows)[order]


def equal_etas(*groups: Runs) -> tuple[float, float] | None:
    """Return the range of step sizes that all runs of all groups were probed at; None if there is none."""
    frames = [read(group, "gradient_line", columns=_LINE_COLUMNS, where={"direction": "gradient"}) for group in groups]
    probed = [frame.assign(group=number) for number, frame in enumerate(frames) if frame is not None]
    return common_etas(pd.concat(probed, ignore_index=True), by=["group", "run"]) if probed else None


_LINE_COLUMNS = ("step", "layer", "direction", "eta", "distance", "loss", "gradient_change_l2", "learning_rate")


def _compared(one: pd.DataFrame, other: pd.DataFrame, *, has_ratio: bool, seed: int) -> dict[str, Any]:
    a, b, paired = _matched(one, other)
    row: dict[str, Any] = {"a": np.nan, "b": np.nan, "ratio": np.nan, "low": np.nan, "high": np.nan}
    row |= {"n": min(len(a), len(b)), "paired": paired, "null_reason": None}
    if not len(a) or not len(b):
        sides = [side for side, values in (("a", a), ("b", b)) if not len(values)]
        reasons = {str(reason) for frame in (one, other) for reason in frame["null_reason"].dropna()}
        means = {"a": float(a.mean()) if len(a) else np.nan, "b": float(b.mean()) if len(b) else np.nan}
        return row | means | {"null_reason": f"{' and '.join(sides)}: {'; '.join(sorted(reasons)) or 'no value'}"}
    row |= {"a": float(a.mean()), "b": float(b.mean())}
    if not has_ratio:
        return row | {"null_reason": "may be negative, so a ratio means nothing: read a and b"}
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return row | {"null_reason": "a value is infinite: the loss overflowed"}
    if not ((a > 0).all() and (b > 0).all()):
        return row | {"null_reason": "a value is 0 or negative, so there is no ratio"}
    return row | _ratio(np.log(a), np.log(b), paired=paired, seed=seed)


def _matched(one: pd.DataFrame, other: pd.DataFrame) -> tuple[Array, Array, bool]:
    """Return the values of both sides, by seed where at least two seeds have one on each side."""
    one, other = one[one["value"].notna()], other[other["value"].notna()]
    by_seed = [frame[frame["seed"].notna()].groupby("seed")["value"].mean() for frame in (one, other)]
    # What a seed does to both nets, such as the order of the batches, cancels within a pair. One pair has no spread.
    both = by_seed[0].index.intersection(by_seed[1].index)
    if len(both) >= 2:
        return by_seed[0].loc[both].to_numpy(np.float64), by_seed[1].loc[both].to_numpy(np.float64), True
    return one["value"].to_numpy(np.float64), other["value"].to_numpy(np.float64), False


# Means of logarithms: b / a is then the inverse of a / b, and seeds at 1/2 and 2 average to 1, not to 1.25.
def _ratio(a: Array, b: Array, *, paired: bool, seed: int) -> dict[str, Any]:
    result: dict[str, Any] = {"a": np.exp(a.mean()), "b": np.exp(b.mean()), "ratio": np.exp(b.mean() - a.mean())}
    if min(len(a), len(b)) < 2:
        return result | {"null_reason": "one run on a side: no interval; train more seeds"}
    options = {"n_resamples": NUM_RESAMPLES, "confidence_level": CONFIDENCE, "method": "percentile", "vectorized": True}
    random = np.random.default_rng(seed)
    if paired:
        interval = stats.bootstrap((b - a,), np.mean, rng=random, **options).confidence_interval
    else:
        interval = stats.bootstrap((a, b), _difference_of_means, rng=random, **options).confidence_interval
    return result | {"low": float(np.exp(interval.low)), "high": float(np.exp(interval.high))}


def _difference_of_means(a: Array, b: Array, axis: int = -1) -> Array:
    return b.mean(axis=axis) - a.mean(axis=axis)
