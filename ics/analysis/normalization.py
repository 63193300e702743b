"""What a BatchNorm layer does to the gradient that passes through it: Thm 4.1 of Santurkar et al. 2018 as a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ics.analysis.frames import IDENTITY, checked, over_seeds

BUDGET = ("change", "rescaling", "projection", "mean_share", "normalized_share")
AFFINE = ("gamma", "beta")
_QUANTILES = {"_p10": 0.1, "": 0.5, "_p90": 0.9}
_PLACE = ("layer", "layer_index", "call", "step")
_TERMS = ("output_gradient_squared", "rescaled_gradient_squared", "input_gradient_squared")
_PROJECTED = ("mean_term", "normalized_term")
_CHANNELS = {"gamma": "channel_weight", "beta": "channel_bias"}


def smoothing_budget(frame: pd.DataFrame) -> pd.DataFrame:
    """Split how a normalisation changes the squared length of the gradient, from its output g to its input dL/dy.

    Thm 4.1: ||dL/dy||^2 = gamma^2/sigma^2 (||g||^2 - <1,g>^2/m - (2/m - ||x-hat||^2/m^2) <g,x-hat>^2), summed over
    channels. So `change` = ||dL/dy||^2 / ||g||^2 (measured) is the product of `rescaling`, the sum of
    gamma^2/sigma^2 ||g||^2 over ||g||^2, and `projection`, what the two projections leave: 1 - `mean_share` -
    `normalized_share`, the shares of the rescaled square that lie along 1 and along x-hat. As factors they split the
    change exactly: ln change = ln rescaling + ln projection. Differences would depend on which of them came first.

    `gamma` and `beta`: median over channels before the update, `_p10` and `_p90` the 10th and 90th percentile.

    Args:
        frame: rows of the table normalization.

    Returns:
        A row per run, layer, call and step. Null: what theorem and batch statistics are null for (any normalisation but
        BatchNorm in training mode), a quotient whose denominator is 0, gamma and beta where there are none.

    Raises:
        SelectionError: a column is missing.
        UsageError: no rows.
    """
    columns = (*_PLACE, *_TERMS, *_PROJECTED, *_CHANNELS.values())
    rows = checked(frame, "normalization", columns)
    output, rescaled, arrived = (rows[name] for name in _TERMS)
    budget = {
        "change": _quotient(arrived, output),
        "rescaling": _quotient(rescaled, output),
        "projection": _quotient(arrived, rescaled),
        "mean_share": _quotient(rows["mean_term"], rescaled),
        "normalized_share": _quotient(rows["normalized_term"], rescaled),
    }
    affine = {
        f"{name}{suffix}": [_quantile(cell, q) for cell in rows[column]]
        for name, column in _CHANNELS.items()
        for suffix, q in _QUANTILES.items()
    }
    return rows[[*IDENTITY, *_PLACE]].assign(**budget, **affine)


def smoothing_over_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Gather `smoothing_budget` over the seeds of a net.

    Per net, layer, call and step each column as its median over runs, with `_low` (min) and `_high` (max), and
    `num_runs`. Arguments and errors as `smoothing_budget`.
    """
    values = (*BUDGET, *(f"{name}{suffix}" for name in AFFINE for suffix in _QUANTILES))
    gathered = over_seeds(smoothing_budget(frame), by=("net", *_PLACE), values=values)
    return gathered.sort_values(["layer_index", "call", "step"], kind="stable", ignore_index=True)


def _quotient(numerator: pd.Series, denominator: pd.Series) -> pd.Series:
    return numerator / denominator.where(denominator != 0)


def _quantile(cell: Sequence[float] | float | None, q: float) -> float:
    """Return a quantile over the channels of a list cell; NaN for a null one."""
    if cell is None or np.ndim(cell) == 0:
        return float("nan")
    values = np.asarray(cell, dtype=np.float64)
    return float(np.quantile(values, q)) if values.size else float("nan")
