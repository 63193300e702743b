"""Opens a run: its state, its contents, and its rows as frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from ics.columns import Table
from ics.errors import NotARunError, unknown_name
from ics.records import Layer
from ics.schema import TABLES, table_named
from ics.store.layout import RUN_FILE, all_parts
from ics.store.run_file import read_run_file
from ics.store.tables import read_rows, stored_schema
from ics.store.where import Where


def open_run(path: str | Path) -> Run:
    """Open a run that has ended, is still being written, or was killed.

    Args:
        path: the folder that a recorder wrote to.

    Raises:
        NotARunError: there is no such folder, or it holds no run.
        SchemaVersionError: the run was written by a newer schema.

    Example:
        >>> run = open_run("runs/vgg-bn-0")                                         # doctest: +SKIP
        >>> run.table("steps", columns=["step", "loss"], where=[("step", ">=", 100)])  # doctest: +SKIP
    """
    folder = Path(path)
    if not (folder / RUN_FILE).is_file():
        raise _no_run(folder)
    return Run(folder, read_run_file(folder))


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run."""
    return (folder / RUN_FILE).is_file()


def _no_run(folder: Path) -> NotARunError:
    if folder.is_file():
        return NotARunError(f"expected the folder of a run, got the file {folder}; type {str(folder.parent)!r}")
    if not folder.exists():
        siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
        names = [sibling.name for sibling in siblings if is_run(sibling)]
        near = unknown_name(f"run in {folder.parent}", folder.name, names)
        return NotARunError(f"expected the folder of a run, got {folder}, which does not exist: {near}")
    inside = sorted(child.name for child in folder.iterdir() if is_run(child))
    if inside:
        return NotARunError(
            f"expected the folder of a run, got {folder}, a folder of runs; "
            f"type open_runs({str(folder)!r}) or open_run({str(folder / inside[0])!r})"
        )
    return NotARunError(
        f"expected the folder of a run, got {folder} without a {RUN_FILE}; type the folder that a recorder wrote to"
    )


@dataclass(frozen=True, eq=False)
class Run:
    """An opened run.

    Attributes:
        path: its folder.
        info: what run.json held when the run was opened.
    """

    path: Path
    info: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self.state}, {', '.join(self.tables) or 'no rows'}>"

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def state(self) -> str:
        """How the run ended: `completed`, `failed` or `interrupted`; `running` if it has not ended, or was killed."""
        return str(self.info["state"])

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables that have rows, in the order of the schema; those of the user's own instruments last."""
        # Not cached, unlike `schema`: a run that is being written may get its first rows of a table at any time.
        return tuple(name for name in self.schema if all_parts(self.path / name))

    @cached_property
    def schema(self) -> Mapping[str, Table]:
        """Every table that the run may hold, by name: those of `ics.schema`, and those of a user's own instruments."""
        own = self.info.get("tables") or {}
        return {**TABLES, **{name: Table.of_json(name, stored) for name, stored in own.items()}}

    @property
    def layers(self) -> pd.DataFrame:
        """Layers in the order in which they run: one row each, with the attributes of `ics.records.Layer`."""
        names = [field.name for field in fields(Layer)]
        return pd.DataFrame(list(self.info.get("layers") or []), columns=names)

    def columns(self, name: str, *, skip_damaged: bool = False) -> tuple[str, ...]:
        """Return the columns of a table: those of the schema, then those that the user logged."""
        return tuple(stored_schema(self.path / name, table_named(name, self.schema), skip_damaged=skip_damaged).names)

    def table(
        self,
        name: str,
        *,
        columns: Sequence[str] | str | None = None,
        where: Where | None = None,
        skip_damaged: bool = False,
    ) -> pd.DataFrame:
        """Return rows of a table, sorted by layer, call, site and the like, then by step.

        Only the columns and row groups needed are read. Null becomes NaN in columns of numbers (whole numbers become
        floats if there is a null among them) and None in columns of lists, whose cells are numpy arrays. `arrow` keeps
        null and NaN apart. A table that was not recorded has no rows.

        Args:
            name: name of the table.
            columns: the columns to return, in this order; default all.
            where: the rows to return: column to value or list of values, as `{"layer": ["conv1", "conv2"]}`; or a list
                of (column, operator, value), as `[("step", ">=", 100), ("site", "=", "input")]`, with an operator of
                `= == != < <= > >= in`. All conditions must hold. A missing value is unequal to everything, as in
                pandas; compare with None to find missing values.
            skip_damaged: leave out parts that cannot be read, with a warning for each.

        Raises:
            SelectionError: an unknown table, column or operator; the message suggests near matches.
            DamagedPartError: a part cannot be read.
        """
        return self.arrow(name, columns=columns, where=where, skip_damaged=skip_damaged).to_pandas()

    def arrow(
        self,
        name: str,
        *,
        columns: Sequence[str] | str | None = None,
        where: Where | None = None,
        skip_damaged: bool = False,
        schema: pa.Schema | None = None,
    ) -> pa.Table:
        """Return the rows that `table` returns as an Arrow table, in which null and NaN stay distinct.

        `schema` adds columns that only other runs have.
        """
        table = table_named(name, self.schema)
        folder = self.path / name
        return read_rows(folder, table, columns=columns, where=where, schema=schema, skip_damaged=skip_damaged)
