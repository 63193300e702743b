"""Writes the scalars of a recorded run to TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pandas as pd

from ics.store import Run

SCALARS = {
    "activations": (["layer", "call", "site"], ["mean", "m2", "zero_fraction", "saturated_fraction"]),
    "gradient_shift": (["layer", "parameters"], ["shift_l2", "shift_cosine", "shift_relative", "floor_relative"]),
    "curvature": ([], ["hessian_max_eigenvalue", "batch_sharpness", "two_over_lr"]),
}
"""By table: the keys that form a tag, and the columns that become scalars. In `steps`, every column of numbers does."""


class SummaryWriter(Protocol):  # a protocol, so that reading a run needs neither torch nor tensorboard
    """The part of `torch.utils.tensorboard.SummaryWriter` that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Write one scalar."""


def to_tensorboard(run: Run, writer: SummaryWriter) -> int:
    """Write a run's scalars with a TensorBoard writer; tags have the form `table/layer/site/column`.

    Args:
        run: an opened run.
        writer: a `torch.utils.tensorboard.SummaryWriter`, or anything with its `add_scalar`.

    Returns:
        The number of scalars written; nulls are left out.

    Example:
        >>> from torch.utils.tensorboard import SummaryWriter        # doctest: +SKIP
        >>> to_tensorboard(ics.open_run("runs/mlp-0"), SummaryWriter())   # doctest: +SKIP
    """
    count = 0
    for tag, value, step in _scalars(run):
        writer.add_scalar(tag, value, step)
        count += 1
    return count


def _scalars(run: Run) -> Iterator[tuple[str, float, int]]:
    for table in run.tables:
        if table == "steps":
            frame = run.table(table)
            yield from _rows(table, frame, [], list(frame.select_dtypes("number").columns.drop("step")))
        elif table in SCALARS:
            keys, columns = SCALARS[table]
            yield from _rows(table, run.table(table, columns=["step", *keys, *columns]), keys, columns)


def _rows(table: str, frame: pd.DataFrame, keys: list[str], columns: list[str]) -> Iterator[tuple[str, float, int]]:
    for row in frame.to_dict("records"):
        place = "/".join(str(row[key]) for key in keys)
        for column in columns:
            if not pd.isna(row[column]):
                yield "/".join(filter(None, [table, place, column])), float(row[column]), int(row["step"])
