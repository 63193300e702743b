"""Curvature over training, with the edge of stability 2/lr (Cohen et al. 2021)."""

from __future__ import annotations

import pandas as pd

from ics.analysis.frames import checked, over_seeds, require_one_rate

_VALUES = ("hessian_max_eigenvalue", "batch_sharpness", "two_over_lr")


def curvature_over_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Gather the curvature of the loss at each measured step over the seeds of a net.

    `hessian_max_eigenvalue`: largest eigenvalue of the Hessian of the training batch's loss; `batch_sharpness`:
    g.Hg / ||g||^2; `two_over_lr`: 2 / learning rate, above which gradient descent on a quadratic diverges.

    Args:
        frame: rows of the table curvature.

    Returns:
        A row per net and step: each of the three as the median over runs, with `_low` (min) and `_high` (max), and
        `num_runs`. A value that is null in every run stays null.

    Raises:
        SelectionError: a column is missing.
        UsageError: no rows, or runs of one net had different learning rates at the same step.

    Example:
        >>> row = {"step": 0, "learning_rate": 0.1, "two_over_lr": 20.0, "batch_sharpness": 3.0}
        >>> rows = [row | {"hessian_max_eigenvalue": 8.0}, row | {"hessian_max_eigenvalue": 9.0}]
        >>> columns = ["step", "hessian_max_eigenvalue", "hessian_max_eigenvalue_high", "two_over_lr"]
        >>> curvature_over_steps(pd.DataFrame(rows))[columns]
           step  hessian_max_eigenvalue  hessian_max_eigenvalue_high  two_over_lr
        0     0                     8.5                          9.0         20.0
    """
    rows = checked(frame, "curvature", ("step", *_VALUES, "learning_rate"))
    require_one_rate(rows)
    gathered = over_seeds(rows, by=("net", "step"), values=_VALUES)
    return gathered.sort_values("step", kind="stable", ignore_index=True)
