"""C08: gamma and beta cannot change the shape of a channel's distribution. An equality, so any exception is a bug."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ics.analysis import moments
from ics.claims.method.budgets import ClaimBudget, base
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import equals
from ics.experiments.training.config import RunConfig

_NET = "BatchNorm, float64"
_COLUMNS = ("step", "layer", "layer_index", "call", "site", "m2", "m3", "m4")
_CHANNELS = ("channel_m2", "channel_m3", "channel_m4")
_PLACE = ["net", "seed", "step", "layer", "call"]
_SHAPES = ("skewness", "excess_kurtosis")


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """One net in float64, whose rounding is far below any change of shape."""
    return (base(budget, norm="batch", dtype="float64", net=_NET),)


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Largest change of a standardised moment from x-hat to y = gamma x-hat + beta, over channels, layers and steps.

    Skewness by its absolute value: a negative gamma mirrors the distribution. The change of the pooled shape is shown
    beside it: gamma and beta differ from channel to channel, so all channels together do change their shape.
    """
    where = {"site": ["normalized", "scaled"]}
    rows = moments(found.table("activations", columns=[*_COLUMNS, *_CHANNELS], where=where))
    pairs = rows[rows["site"] == "normalized"].merge(rows[rows["site"] == "scaled"], on=_PLACE, suffixes=("", "_after"))
    effects = []
    for name in _SHAPES:
        label = name.replace("_", " ")
        channels = pairs.assign(change=[_largest(*cells) for cells in _cells(pairs, f"channel_{name}")])
        pooled = pairs.assign(change=(pairs[f"{name}_after"].abs() - pairs[name].abs()).abs())
        effects += [
            value(
                per_seed(channels, "change", by=(), reduce="max"),
                _NET,
                measure=f"{name}_change",
                meaning=f"largest change of a channel's {label} from x-hat to y, relative to 1 + |{label}|",
                unit="1",
            ),
            value(
                per_seed(pooled, "change"),
                _NET,
                measure=f"pooled_{name}_change",
                meaning=f"change of the pooled {label} from x-hat to y, median over layers, then over steps",
                unit="1",
            ),
        ]
    return tuple(effects)


def _cells(pairs: pd.DataFrame, column: str) -> zip[tuple[np.ndarray, np.ndarray]]:
    return zip(pairs[column], pairs[f"{column}_after"], strict=True)


def _largest(before: np.ndarray, after: np.ndarray) -> float:
    """Largest relative change over channels; a channel that is constant (or has gamma = 0) has no shape."""
    change = np.abs(np.abs(after) - np.abs(before)) / (1 + np.abs(before))
    return float(np.nanmax(change)) if np.isfinite(change).any() else float("nan")


_WHY = "rounding of float64; a change of shape would be many orders larger"

C08 = Claim(
    id="C08",
    nets=nets,
    evidence=evidence,
    rule=(
        equals("skewness_change", 0.0, tolerance=1e-9, why=_WHY),
        equals("excess_kurtosis_change", 0.0, tolerance=1e-9, why=_WHY),
    ),
    published="An affine map changes no standardised moment.",
    remark="Holds channel by channel. Over all channels together, which is what a pooled histogram shows, the shape "
    "does change, because each channel has its own gamma and beta.",
)
