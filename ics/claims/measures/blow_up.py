"""How large losses, weights and biases became in a training, by net and seed. What is not finite is infinite."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ics.claims.method.evidence import Evidence


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
    rows = found.table("gradients", columns=columns, where={"kind": "parameter"})
    own = rows["of"] == rows["layer"] + f".{parameter}"
    hidden = rows["layer_index"] < rows.groupby("run")["layer_index"].transform("max")
    last = rows["step"] == rows.groupby("run")["step"].transform("max")
    squares = rows[own & hidden & last].assign(square=lambda chosen: chosen["parameter_norm"] ** 2)
    # NaN is no small norm: what a sum would leave out is a net that diverged.
    groups = squares.groupby(["net", "seed"])["square"]
    # NaN stays NaN. (sum(skipna=False) of groups says the same, from pandas 3 on.)
    norms = np.sqrt(groups.sum().where(groups.count() == groups.size()))
    return norms.where(np.isfinite(norms), np.inf)


def _peak(losses: pd.Series) -> float:
    values = losses.to_numpy(float)
    return float(values.max() / values[0]) if np.isfinite(values).all() else float("inf")
