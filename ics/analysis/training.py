"""How the training went and what measuring it cost, from the table steps."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from ics.analysis.frames import IDENTITY, checked, over_seeds
from ics.errors import unknown_name
from ics.schema import STEPS


def training_curves(
    frame: pd.DataFrame, *, measures: Sequence[str] | None = None, num_points: int = 200
) -> pd.DataFrame:
    """Gather the loss, and what else the loop logged, over the seeds of a net.

    A measure with more than `num_points` recorded steps is averaged per run over equal stretches of steps first
    (`steps_averaged` says how many; `step` is then the middle of the stretch). Then, per net and step: `value`, the
    median over runs, `value_low`, `value_high`, min and max, and `num_runs`. Steps at which nothing was logged have no
    row: nothing is filled in.

    Args:
        frame: rows of the table steps.
        measures: columns to gather; default: `loss` and every column that the loop itself logged.
        num_points: most points of a curve.

    Raises:
        SelectionError: a measure is no column.
        UsageError: no rows.

    Example:
        >>> curve = training_curves(pd.DataFrame({"step": [0, 1], "loss": [2.0, 1.0]}))
        >>> curve[["measure", "step", "value", "num_runs"]]
          measure  step  value  num_runs
        0    loss     0    2.0         1
        1    loss     1    1.0         1
    """
    rows = checked(frame, "steps", ("step",))
    names = logged_measures(rows) if measures is None else list(measures)
    for name in names:
        if name not in rows.columns:
            raise unknown_name("column of this frame of steps", name, rows.columns)
    curves = [_curve(rows, name, num_points) for name in names]
    columns = ["net", "step", "num_runs", "value", "value_low", "value_high", "measure", "steps_averaged"]
    filled = [curve for curve in curves if not curve.empty]
    return pd.concat(filled, ignore_index=True)[columns] if filled else pd.DataFrame(columns=columns)


def logged_measures(frame: pd.DataFrame) -> list[str]:
    """Return `loss` where it holds values, and the numeric columns that the loop logged beside it."""
    own = {*IDENTITY, *STEPS.column_names}
    extra = [name for name in frame.columns if name not in own and _is_number(frame[name])]
    return [name for name in ["loss", *extra] if name in frame.columns and frame[name].notna().any()]


def last_tenth(values: pd.Series) -> pd.Series:
    """Return the last tenth of the values, at least one. Their mean is a final loss that no single batch decides.

    Example:
        >>> last_tenth(pd.Series(range(25))).tolist()
        [23, 24]
    """
    return values.tail(max(len(values) // 10, 1))


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what each run took: how long its steps were, and how much of it was measuring.

    Per run: `num_steps`, `num_measured`; `plain_step` and `measured_step`, the median duration (s) of the user's block
    without and with hooks attached; `evaluating`, the median time (s) of the extra evaluations after a measured block;
    `total`, all blocks and evaluations (s); `times_plain`, `total` over what as many plain steps would have taken. Null
    where every step was measured, so that there is no plain one to compare with.

    Args:
        frame: rows of the table steps.

    Raises:
        SelectionError: a column is missing.
        UsageError: no rows.
    """
    rows = checked(frame, "steps", ("measured", "duration", "measuring_duration"))
    measured = rows["measured"].fillna(False).astype(bool)
    rows = rows.assign(
        measured=measured,
        plain_step=rows["duration"].where(~measured),
        measured_step=rows["duration"].where(measured),
        evaluating=rows["measuring_duration"].where(measured),
        # A step that was not measured spent no time on evaluations; a block without a duration makes the sum unknown.
        total=rows["duration"] + rows["measuring_duration"].fillna(0),
    )
    grouped = rows.groupby(list(IDENTITY), dropna=False, sort=False)  # a run without a seed is to be kept
    # Medians of steps: the first ones compile and allocate, and would make a mean too long.
    result = pd.DataFrame(
        {
            "num_steps": grouped.size(),
            "num_measured": grouped["measured"].sum(),
            **{name: grouped[name].median() for name in ("plain_step", "measured_step", "evaluating")},
            "total": grouped["total"].sum().where(grouped["total"].count() == grouped.size()),
        }
    )
    plain = result["plain_step"] * result["num_steps"]
    return result.assign(times_plain=result["total"] / plain.where(plain > 0)).reset_index()


def _curve(rows: pd.DataFrame, name: str, num_points: int) -> pd.DataFrame:
    logged = rows.loc[rows[name].notna(), [*IDENTITY, "step", name]].rename(columns={name: "value"})
    steps = logged["step"]
    # Sparse measures (a test accuracy now and then) keep their own steps; only dense ones are averaged.
    width = 1
    if steps.nunique() > num_points:
        width = -(-int(steps.max() - steps.min() + 1) // num_points)
    logged = logged.assign(step=steps // width * width + (width - 1) // 2)
    per_run = logged.groupby([*IDENTITY, "step"], dropna=False, sort=False)["value"].mean().reset_index()
    gathered = over_seeds(per_run, by=("net", "step"), values=("value",))
    return gathered.sort_values("step", kind="stable").assign(measure=name, steps_averaged=width)


def _is_number(column: pd.Series) -> bool:
    return is_numeric_dtype(column) and not is_bool_dtype(column)
