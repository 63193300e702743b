"""How stable a distribution is from one measured step to another, at a place that all nets have.

    `seen`            what layers after the first see: their input u, whatever made it
    `before_activation`  what activation functions are applied to: gamma x-hat + beta where there is a norm, else Wu + b

Both can compare nets with and without normalisation, whether before the activation function or after it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from ics.analysis import after_first_layer, as_array, drift_between, entering, moments
from ics.claims.measures.training import diverged
from ics.claims.method.effects import per_seed
from ics.claims.method.evidence import Evidence

Reference = Literal["previous", "first"]

_KEYS = ("step", "layer", "layer_index", "call", "site")
_MOMENTS = ("mean", "m2", "m3", "m4")
_COLUMNS = (*_KEYS, *_MOMENTS, *(f"channel_{name}" for name in _MOMENTS))
_PLACE = ["net", "seed", "layer", "call"]


def seen(found: Evidence, *, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return the rows of what every layer with weights sees, except the first, whose input is the data."""
    rows = found.table("activations", columns=(*_COLUMNS, *columns), where={"site": ["input", "preactivation"]})
    weighted = _having(rows, "preactivation")
    inputs = weighted[weighted["site"] == "input"]
    return after_first_layer(inputs)


def before_activation(found: Evidence, *, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return the rows of what activation functions are applied to, in each layer that has one."""
    sites = ["preactivation", "scaled", "activation"]
    rows = found.table("activations", columns=(*_COLUMNS, *columns), where={"site": sites})
    hidden = _having(_having(rows, "activation"), "preactivation")
    return entering(hidden)


def movement(
    found: Evidence, rows: pd.DataFrame, measure: str, *, reference: Reference, apart: int | None = None
) -> pd.Series:
    """Return a distance of `ics.analysis.drift_between` by net and seed: median over layers, then over steps.

    Args:
        found: says which nets diverged; these have moved infinitely far.
        rows: as the functions above return them.
        measure: a column of `drift_between`.
        reference: the step that each is held against.
        apart: count only steps at this distance from their reference; nets without any have no number.
    """
    drift = drift_between(rows, reference=reference)
    if apart is not None:
        drift = drift[drift["step"] - drift["reference_step"] == apart]
    return without_end(found, per_seed(drift, measure))


def without_end(found: Evidence, numbers: pd.Series) -> pd.Series:
    """Return the numbers with inf for the nets that diverged."""
    # Before it diverged a net may have moved little; as it recorded nothing more, that would count in its favour.
    has_diverged = diverged(found).reindex(numbers.index, fill_value=False)
    return numbers.where(~has_diverged, np.inf)


def skewness_change(rows: pd.DataFrame, *, reference: Reference) -> pd.DataFrame:
    """Return how far the skewness of channels moved: the median over channels of |skewness - that at the reference|.

    Skewness does not depend on mean and variance, so this is the change of shape that remains if both are fixed.

    Returns:
        A row per net, seed, layer, call, site and step after the reference: these, and `skewness_change`.
    """
    results = []
    for place, own in moments(rows).sort_values("step").groupby([*_PLACE, "site"], sort=False):
        steps = [(step, as_array(cell)) for step, cell in zip(own["step"], own["channel_skewness"], strict=True)]
        pairs = pairwise(steps) if reference == "previous" else ((steps[0], one) for one in steps[1:])
        results += [(*place, step, _median(np.abs(now - then))) for (_, then), (step, now) in pairs]
    return pd.DataFrame(results, columns=[*_PLACE, "site", "step", "skewness_change"])


def _having(rows: pd.DataFrame, site: str) -> pd.DataFrame:
    """Keep the layers that have this site: a norm after an activation counts as a layer but computes no Wu + b."""
    return rows[(rows["site"] == site).groupby([rows[name] for name in _PLACE]).transform("any")]


def _median(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(np.median(defined)) if defined.size else float("nan")
