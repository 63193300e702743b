"""Measures of a training that several claims need, by net and seed.

A net that diverged records nothing more, and what it recorded before must not count for it: it gets the worst number.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ics.analysis import before_last_layer, last_tenth
from ics.claims.method.evidence import Evidence, MissingEvidenceError
from ics.errors import UsageError


def final_loss(found: Evidence, *, column: str = "loss") -> pd.Series:
    """Return the mean of a logged loss over the last tenth of the steps, by net and seed; inf if any is not finite.

    For what is logged only now and then (test_loss, test_accuracy), the last tenth of the logged values counts. If
    training ended with a loss that is not finite, such losses are inf, because a logged NaN cannot be told from a step
    at which nothing was logged. An accuracy is a number even then.
    """
    rows = found.table("steps", columns=("step", column))
    if column not in rows.columns:
        raise MissingEvidenceError(f"no run logged {column}")
    # A loss that is NaN is a loss; one that was not logged at this step is not. The loss of training is logged always.
    logged = rows if column == "loss" else rows[rows[column].notna()]
    losses: pd.Series = logged.sort_values("step").groupby(["net", "seed"])[column].agg(_mean_of_tail).astype(float)
    if column == "loss" or not column.endswith(("loss", "loss_batch_statistics")):
        return losses
    lost = diverged(found)
    return losses.reindex(losses.index.union(lost.index[lost])).mask(lost, np.inf)


def steps_to(found: Evidence, loss: float, *, smoothing: int = 10) -> pd.Series:
    """Return the first step at which the training loss, a running mean over `smoothing` steps, is at most `loss`.

    By net and seed; inf where it never is.
    """
    if smoothing < 1:
        raise UsageError(f"smoothing is at least 1 step, got {smoothing}")
    rows = found.table("steps", columns=("step", "loss")).sort_values("step")
    return rows.groupby(["net", "seed"])[["step", "loss"]].apply(_first_step, loss, smoothing).astype(float)


def diverged(found: Evidence) -> pd.Series:
    """Return whether the last training loss is not finite, by net and seed."""
    rows = found.table("steps", columns=("step", "loss")).sort_values("step")
    last: pd.Series = rows.groupby(["net", "seed"])["loss"].agg(lambda losses: not np.isfinite(losses.iloc[-1]))
    return last.astype(bool)


def worst_where_diverged(numbers: pd.Series, found: Evidence, *, worst: float = math.inf) -> pd.Series:
    """Return numbers by net and seed, with `worst` for every run whose last training loss is not finite.

    Args:
        numbers: the result of `per_seed`.
        found: holds the losses.
        worst: infinity, or NaN for a measure without a worst value, such as a direction.

    Example:
        >>> index = pd.MultiIndex.from_tuples([("a", 0), ("b", 0)], names=["net", "seed"])
        >>> steps = pd.DataFrame({"net": ["a", "b"], "seed": 0, "step": 9, "loss": [0.5, math.nan]})
        >>> worst_where_diverged(pd.Series([1.0, 2.0], index), Evidence.of_frames({"steps": steps})).tolist()
        [1.0, inf]
    """
    return numbers.mask(diverged(found).reindex(numbers.index, fill_value=False), worst)


def peak_loss(found: Evidence) -> pd.Series:
    """Return the largest training loss as a multiple of the first one, 1 or more; inf where any is not finite."""
    rows = found.table("steps", columns=("step", "loss")).sort_values("step")
    return rows.groupby(["net", "seed"])["loss"].agg(_peak).astype(float)


def last_norm(found: Evidence, *, parameter: str) -> pd.Series:
    """Return the l2 norm of one kind of parameter of all hidden layers together, at the last measured step.

    Args:
        found: with the table `gradients`.
        parameter: `"weight"` or `"bias"` of the linear and convolutional layers. The last layer, which no
            normalisation follows, is left out, and so are gamma and beta.
    """
    columns = ("step", "layer", "layer_index", "of", "parameter_norm")
    rows = before_last_layer(found.table("gradients", columns=columns, where={"kind": "parameter"}))
    own = rows["of"] == rows["layer"] + f".{parameter}"
    last = rows["step"] == rows.groupby("run")["step"].transform("max")
    squares = rows[own & last].assign(square=lambda chosen: chosen["parameter_norm"] ** 2)
    # NaN is no small norm: what a sum would leave out is a net that diverged.
    groups = squares.groupby(["net", "seed"])["square"]
    # NaN stays NaN. (sum(skipna=False) of groups says the same, from pandas 3 on.)
    norms = np.sqrt(groups.sum().where(groups.count() == groups.size()))
    return norms.where(np.isfinite(norms), np.inf)


def _mean_of_tail(losses: pd.Series) -> float:
    tail = last_tenth(losses).to_numpy(float)
    return float(tail.mean()) if np.isfinite(tail).all() else float("inf")


def _first_step(rows: pd.DataFrame, loss: float, smoothing: int) -> float:
    # A single batch may happen to be easy: without the mean, the noisier loss would get there sooner.
    smooth = rows["loss"].rolling(smoothing, min_periods=1).mean()
    reached = rows["step"][(smooth <= loss).to_numpy()]
    return float(reached.iloc[0]) if len(reached) else float("inf")


def _peak(losses: pd.Series) -> float:
    values = losses.to_numpy(float)
    return float(values.max() / values[0]) if np.isfinite(values).all() else float("inf")
