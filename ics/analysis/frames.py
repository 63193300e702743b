"""The first and the last thing that every analysis does: check its frame, and gather the seeds of a net."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ics.errors import SelectionError, UsageError, unknown_name

IDENTITY = ("run", "net", "seed")
LABEL_OF_ONE_RUN = "run"


def checked(frame: pd.DataFrame, table: str, columns: Iterable[str]) -> pd.DataFrame:
    """Return a copy of `frame` that has rows, the `columns` named, and `run`, `net` and `seed` in front.

    A frame of one run, as `Run.table` returns it, gets run and net `"run"` and a null seed.

    Raises:
        SelectionError: a column is missing.
        UsageError: it is no frame, or holds no rows.
    """
    if not isinstance(frame, pd.DataFrame):
        raise UsageError(
            f"expected a pandas frame of the table {table!r}, got {type(frame).__name__}; type runs.table({table!r})"
        )
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        once = f"type runs.table({table!r}), or for a measurement taken once frame.assign(step=0)"
        raise SelectionError(
            f"expected the columns of the table {table!r}, got a frame without {', '.join(missing)}; "
            + (once if missing == ["step"] else f"type runs.table({table!r})")
        )
    if frame.empty:
        raise UsageError(
            f"expected rows of the table {table!r}, got a frame without any; "
            f"record them (instruments={{{table!r}: ics.every(10)}}) or leave fewer rows out in `where`"
        )
    return _identified(frame)


def _identified(frame: pd.DataFrame) -> pd.DataFrame:
    run = frame["run"] if "run" in frame.columns else pd.Series(LABEL_OF_ONE_RUN, index=frame.index)
    net = frame["net"] if "net" in frame.columns else run
    seed = frame["seed"] if "seed" in frame.columns else pd.Series(np.nan, index=frame.index)
    rest = frame.drop(columns=[name for name in IDENTITY if name in frame.columns])
    # A run without a label is a net of its own: under one null label, strangers would be taken for seeds of one net.
    identity = {"run": run, "net": net.where(net.notna(), run), "seed": seed}
    return pd.concat([pd.DataFrame(identity), rest], axis=1).reset_index(drop=True)


def chosen(frame: pd.DataFrame, column: str, value: Any) -> pd.DataFrame:
    """Return the rows where `column` is `value`; raises `SelectionError` with near matches where there are none."""
    rows = frame[frame[column] == value]
    if rows.empty:
        raise unknown_name(column, str(value), [str(other) for other in frame[column].dropna().unique()])
    return rows


def after_first_layer(rows: pd.DataFrame, *, by: str | list[str] = "run") -> pd.DataFrame:
    """Return the rows of all layers but the one that each run executes first: nothing is updated before it."""
    return rows[rows["layer_index"] > rows.groupby(by)["layer_index"].transform("min")]


def before_last_layer(rows: pd.DataFrame, *, by: str | list[str] = "run") -> pd.DataFrame:
    """Return the rows of all layers but the one that each run executes last: no normalisation follows it."""
    return rows[rows["layer_index"] < rows.groupby(by)["layer_index"].transform("max")]


def over_seeds(frame: pd.DataFrame, *, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Gather the runs of a net: per group the median, smallest and largest value over its runs.

    Each value column `x` becomes `x` (median), `x_low` (min) and `x_high` (max); `num_runs` counts the runs of the
    group. Nulls take no part; a column that is null in every run stays null. Infinite values take part.
    """
    grouped = frame.groupby(list(by), dropna=False, sort=False)
    # No mean and standard error: there are few seeds, and one that diverged would make both infinite.
    columns = {"num_runs": grouped["run"].nunique()}
    for name in values:
        columns |= {
            name: grouped[name].median(),
            f"{name}_low": grouped[name].min(),
            f"{name}_high": grouped[name].max(),
        }
    return pd.DataFrame(columns).reset_index()


def require_one_rate(frame: pd.DataFrame) -> None:
    """Check that the runs of a net share the learning rate of each step: 2/lr of several would be no reference line.

    Raises:
        UsageError: runs of one net had different learning rates at the same step.
    """
    rates = frame.groupby(["net", "step"], sort=False)["learning_rate"].agg(["min", "max"]).reset_index()
    mixed = rates[~np.isclose(rates["min"], rates["max"], rtol=1e-6, atol=0, equal_nan=True)]
    if not mixed.empty:
        net, step, low, high = mixed.iloc[0]
        raise UsageError(
            f"expected the runs of net {net!r} to share a learning rate, got {low:g} and {high:g} at step {step}; "
            "draw them apart, or give them different names: frame['net'] = frame['run']"
        )


def spread_out(num_items: int, limit: int) -> list[int]:
    """Return at most `limit` positions out of `num_items`, evenly spread, the first and the last among them.

    Example:
        >>> spread_out(13, 4)
        [0, 4, 8, 12]
        >>> spread_out(2, 4)
        [0, 1]
    """
    if num_items <= limit:
        return list(range(num_items))
    return sorted({round(position) for position in np.linspace(0, num_items - 1, max(limit, 1)).tolist()})


def nets_in(frame: pd.DataFrame) -> list[str]:
    """Return the nets of a frame in the order in which they first appear."""
    return [str(net) for net in frame["net"].drop_duplicates()]
