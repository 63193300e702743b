"""Drift: how far the distribution of a layer moved, between measured steps or on one fixed batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ics.analysis import histograms
from ics.analysis.activations import HISTOGRAM, as_array, as_number, histograms_of, too_coarse
from ics.analysis.frames import IDENTITY, checked, chosen, over_seeds
from ics.errors import SelectionError

_PLACE = (*IDENTITY, "layer", "layer_index", "call", "site")
_CHANNELS = ("channel_mean", "channel_m2")


def drift_between(frame: pd.DataFrame, *, reference: Literal["previous", "first"] | int = "previous") -> pd.DataFrame:
    """Measure how far each distribution moved from a reference step, from stored moments and histograms.

    Per channel c with mean mu and biased variance v, 0 the reference (docs/science.md, 3.4), averaged over channels:
    `mean_shift` = |mu - mu_0| / sqrt(v_0) (in standard deviations); `log_variance_ratio` = |ln(v / v_0)|;
    `gaussian_kl` = KL(now || reference) = ((v + (mu - mu_0)^2) / v_0 - 1 - ln(v / v_0)) / 2 (nat). From the histograms
    of all channels together: `wasserstein_1` in units of the pooled standard deviation at the reference, at most
    `wasserstein_1_error` off. Without per-channel columns the pooled moments serve as one channel.

    The steps saw different batches, so part of this drift is sampling. The table `drift`, where it was recorded, holds
    the drift of one fixed batch and its floor.

    Args:
        frame: rows of the table activations.
        reference: the step measured before, the first one measured, or the number of a measured step.

    Returns:
        A row per run, layer, call, site and step after (or other than) the reference: the keys, `reference_step`, the
        four distances, `num_channels` that entered, `num_undefined` that could not (a variance of 0 or null at one of
        the two steps; wasserstein_1 is not concerned), and `null_reason`.

    Raises:
        SelectionError: a column is missing, or the reference step was not measured.
        UsageError: no rows.
    """
    rows = checked(frame, "activations", ("step", *_PLACE[3:], "mean", "m2"))
    if not isinstance(reference, str) and reference not in set(rows["step"]):
        steps = ", ".join(str(step) for step in sorted(set(rows["step"]))[:8])
        raise SelectionError(f"expected a measured step as the reference ({steps}, ...), got {reference}")
    has_histograms = set(HISTOGRAM) <= set(rows.columns)
    rows = rows.assign(_histogram=histograms_of(rows) if has_histograms else None).sort_values("step", kind="stable")
    results = [
        {**_keys(now), "reference_step": then["step"], **_moved(then, now)}
        for _, place in rows.groupby(list(_PLACE), dropna=False, sort=False)
        for then, now in _pairs(place.to_dict("records"), reference)
    ]
    columns = [
        *IDENTITY,
        "step",
        "reference_step",
        *_PLACE[3:],
        *_DISTANCES,
        "num_channels",
        "num_undefined",
        "null_reason",
    ]
    return pd.DataFrame(results, columns=columns)


_DISTANCES = ("mean_shift", "log_variance_ratio", "gaussian_kl", "wasserstein_1", "wasserstein_1_error")


def gaussian_distances(
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    reference_mean: NDArray[np.float64],
    reference_variance: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return |mean difference| / std, |log variance ratio| and KL per channel, shape (3, channels).

    Example:
        >>> one, two = np.array([1.0]), np.array([2.0])
        >>> gaussian_distances(two, one, one, one).ravel().tolist()
        [1.0, 0.0, 0.5]
    """
    difference = mean - reference_mean
    ratio = variance / reference_variance
    kl = (ratio + difference**2 / reference_variance - 1 - np.log(ratio)) / 2
    return np.stack([np.abs(difference) / np.sqrt(reference_variance), np.abs(np.log(ratio)), kl])


def _keys(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in (*_PLACE, "step")}


def _pairs(records: list[Any], reference: Literal["previous", "first"] | int) -> Iterator[tuple[Any, Any]]:
    """Yield (reference row, row) of one place, whose records ascend by step."""
    if reference == "previous":
        yield from pairwise(records)
        return
    at = records[:1] if reference == "first" else [record for record in records if record["step"] == reference]
    for then in at:
        yield from ((then, now) for now in records if now["step"] != then["step"])


def _moved(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    means, variances = zip(*(_channels(record) for record in (now, then)), strict=True)
    result: dict[str, Any] = dict.fromkeys(_DISTANCES, float("nan"))
    reasons = []
    if len(means[0]) != len(means[1]):
        reasons.append("the number of channels differs between the steps")
        result |= {"num_channels": 0, "num_undefined": len(means[0])}
    else:
        # A dead unit has variance 0. Its log ratio and divergence are infinite, and so would be the mean over channels.
        defined = (variances[0] > 0) & (variances[1] > 0) & ~np.isnan(means[0]) & ~np.isnan(means[1])
        result |= {"num_channels": int(defined.sum()), "num_undefined": int((~defined).sum())}
        if defined.any():
            now_and_then = (means[0], variances[0], means[1], variances[1])
            distances = gaussian_distances(*(values[defined] for values in now_and_then)).mean(axis=1)
            result |= dict(zip(_DISTANCES, distances.tolist(), strict=False))
        else:
            reasons.append("no channel has a variance above 0 at both steps")
    reasons += _transport(then, now, result)
    return {**result, "null_reason": "; ".join(reasons) or None}


def _transport(then: Mapping[str, Any], now: Mapping[str, Any], result: dict[str, Any]) -> list[str]:
    """Add the Wasserstein-1 distance to `result`; return why it is null, if it is."""
    a, b = then["_histogram"], now["_histogram"]
    std = float(np.sqrt(as_number(then["m2"])))
    if a is None or b is None:
        return ["no histogram was recorded"]
    if not std > 0:
        return ["the pooled variance of the reference is 0 or null"]
    # A distribution that has become wider has wider buckets too; they are coarse only against its own spread.
    if too_coarse(a, std) or too_coarse(b, max(std, float(np.sqrt(as_number(now["m2"]))))):
        return ["the histogram's buckets are wider than half a standard deviation"]
    error = histograms.resolution(a) + histograms.resolution(b)
    result |= {"wasserstein_1": histograms.wasserstein_1(a, b) / std, "wasserstein_1_error": error / std}
    return []


def _channels(record: Mapping[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if all(name in record and not np.isscalar(record[name]) and record[name] is not None for name in _CHANNELS):
        return as_array(record["channel_mean"]), as_array(record["channel_m2"])
    return np.array([as_number(record["mean"])]), np.array([as_number(record["m2"])])


DISTANCES = ("mean_shift", "log_variance_ratio", "gaussian_kl", "wasserstein_1")
BEFORE_UPDATE = "before_update"
_KEYS = ("step", "layer", "layer_index", "call", "site", "reference")


def drift_over_steps(frame: pd.DataFrame, *, site: str = "preactivation") -> pd.DataFrame:
    """Gather the drift of each place and step over the seeds of a net; references are kept apart.

    Args:
        frame: rows of the table drift.
        site: `"input"`, `"preactivation"`, `"normalized"`, `"scaled"` or `"activation"`.

    Returns:
        A row per net, layer, call, reference, step and `measure` (`"mean_shift"`, `"log_variance_ratio"`,
        `"gaussian_kl"` or `"wasserstein_1"`, see docs/metrics.md): `drift`, median over runs, `drift_low` and
        `drift_high`, min and max, and likewise `floor`: the same distance between two halves of the probe batch.
        `reference` is "before_update" (what this update did) or "step_<n>" (what all updates since step n did).

    Raises:
        SelectionError: a column is missing, or the site was not recorded.
        UsageError: no rows.
    """
    columns = (*_KEYS, *(f"{prefix}{name}" for name in DISTANCES for prefix in ("", "floor_")))
    rows = chosen(checked(frame, "drift", columns), "site", site)
    keys = [*IDENTITY, *_KEYS]
    pieces = [rows[keys].assign(measure=name, drift=rows[name], floor=rows[f"floor_{name}"]) for name in DISTANCES]
    by = ("net", *_KEYS[1:], "step", "measure")
    gathered = over_seeds(pd.concat(pieces, ignore_index=True), by=by, values=("drift", "floor"))
    return gathered.sort_values(["layer_index", "call", "reference", "step"], kind="stable", ignore_index=True)
