"""Reads several runs as one: their tables are concatenated, each row with its run, net and seed."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from os.path import commonpath
from pathlib import Path
from typing import Any, overload

import pandas as pd
import pyarrow as pa

from ics.errors import NotARunError
from ics.schema import TABLES, table_named
from ics.store.cells import IDENTITY
from ics.store.parts import arrow_schema
from ics.store.reader import Run, is_run, open_run
from ics.store.tables import chosen_columns, stored_schema
from ics.store.where import Where, conjunction, parse_where, triples

_IDENTITY_SCHEMA = pa.schema([("run", pa.string()), ("net", pa.string()), ("seed", pa.int64())])

Pattern = str | Path | Run


def open_runs(pattern: Pattern | Iterable[Pattern]) -> Runs:
    """Open several runs, in natural order of their paths (`bn-2` before `bn-10`).

    Args:
        pattern: a glob pattern such as `"runs/vgg-*"`, the folder of one run, a folder of runs, or a list of these,
            whose order is kept. A run that is named twice counts once.

    Raises:
        NotARunError: no run was found.

    Example:
        >>> runs = open_runs("runs/*")                     # doctest: +SKIP
        >>> frame = runs.table("gradient_shift")           # doctest: +SKIP
    """
    patterns = [pattern] if isinstance(pattern, str | Path | Run) else list(pattern)
    if not patterns:
        raise NotARunError('expected one run or more, got an empty list; type e.g. open_runs("runs/*")')
    unique: dict[Path, Run] = {}
    for run in (run for one in patterns for run in _matching(one)):
        unique.setdefault(run.path.resolve(), run)
    return Runs(unique.values())


def _matching(pattern: Pattern) -> list[Run]:
    if isinstance(pattern, Run):
        return [pattern]
    path = Path(pattern)
    if is_run(path):
        return [open_run(path)]
    if path.is_dir():
        found = [child for child in path.iterdir() if is_run(child)]
    elif glob.has_magic(str(pattern)):
        found = [Path(match) for match in glob.glob(str(pattern), recursive=True) if is_run(Path(match))]
        if not found:
            raise NotARunError(
                f"expected a pattern that matches runs, got {str(pattern)!r}, which matches none in {Path.cwd()}; "
                'type e.g. open_runs("runs/*")'
            )
    else:
        found = []
    # A path that is not a folder of runs fails as a run would: the message says what is there instead.
    return [open_run(run) for run in sorted(found, key=_natural)] if found else [open_run(path)]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key that treats numbers within a name as numbers."""
    # Tuples that begin with 0 or 1: a number and a text at the same place could not be compared.
    pieces = re.split(r"(\d+)", str(path))
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece]


def _labels(runs: Sequence[Run]) -> list[str]:
    """Return the runs' names, or their paths below the common folder if a name occurs twice."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    paths = [run.path.resolve() for run in runs]
    return [path.relative_to(commonpath(paths)).as_posix() for path in paths]


def _identity(runs: Sequence[Run]) -> pa.Table:
    """Return one row per run: its name, net and seed."""
    rows = []
    for run, label in zip(runs, _labels(runs), strict=True):
        config = run.info.get("config") or {}
        seed = config.get("seed") if config.get("seed") is not None else run.info.get("seed")
        whole = isinstance(seed, int) and not isinstance(seed, bool) and abs(seed) < 2**63
        net = config.get("net") or config.get("name") or label
        rows.append({"run": label, "net": str(net), "seed": seed if whole else None})
    return pa.Table.from_pylist(rows, schema=_IDENTITY_SCHEMA)


class Runs(Sequence[Run]):
    """Opened runs, in order; indexing gives a `Run`, a slice gives `Runs`."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs = tuple(runs)

    def __repr__(self) -> str:
        return f"<Runs: {', '.join(self.names) or 'none'}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each run in the column `run` of `table`: its folder, or its path if a name occurs twice."""
        return tuple(_labels(self._runs))

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | slice) -> Run | Runs:
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def table(
        self,
        name: str,
        *,
        columns: Sequence[str] | str | None = None,
        where: Where | None = None,
        skip_damaged: bool = False,
    ) -> pd.DataFrame:
        """Return rows of a table of all runs, with the columns `run`, `net` and `seed` in front.

        `run` is the name of the folder (its path if a name occurs twice). `net` is the configured `net` or `name`, else
        `run`. `seed` is null if none was stored or it exceeds 64 bits. Columns that only some runs logged are null in
        the others. Arguments and errors are those of `Run.table`; `where` may also name run, net and seed.
        """
        schemas = {own: table for run in self._runs for own, table in run.schema.items()} or TABLES
        table = table_named(name, schemas)
        # One schema of all runs, before any rows are read: a column that one run lacks is null there, not an error.
        stored = [stored_schema(run.path / name, table, skip_damaged=skip_damaged) for run in self._runs]
        schema = arrow_schema(table, stored)
        wanted = [columns] if isinstance(columns, str) else columns
        names = chosen_columns(
            None if wanted is None else [one for one in wanted if one not in IDENTITY],
            table=name,
            available=schema.names,
        )
        conditions = triples(where)
        parse_where([one for one in conditions if one[0] not in IDENTITY], table=name, schema=schema)
        pieces = [
            self._rows(run, identity, name, names, conditions, schema, skip_damaged)
            for run, identity in self._selected(conditions)
            if name in run.schema  # not where it is the table of an instrument that this run did not have
        ]
        empty = pa.schema([*_IDENTITY_SCHEMA, *(schema.field(one) for one in names)]).empty_table()
        return pa.concat_tables([empty, *pieces]).to_pandas()

    def _selected(self, conditions: Sequence[tuple[str, str, Any]]) -> list[tuple[Run, dict[str, Any]]]:
        """Return the runs that meet the conditions on run, net and seed, each with these three values."""
        identity = _identity(self._runs)
        own = parse_where([one for one in conditions if one[0] in IDENTITY], table="runs", schema=_IDENTITY_SCHEMA)
        identity = identity.append_column("number", pa.array(range(len(self._runs)), pa.int64()))
        chosen = identity.filter(conjunction(own)) if own else identity
        return [(self._runs[row.pop("number")], row) for row in chosen.to_pylist()]

    def _rows(
        self,
        run: Run,
        identity: dict[str, Any],
        name: str,
        columns: list[str],
        conditions: Sequence[tuple[str, str, Any]],
        schema: pa.Schema,
        skip_damaged: bool,
    ) -> pa.Table:
        where = [one for one in conditions if one[0] not in IDENTITY]
        rows = run.arrow(name, columns=columns, where=where, schema=schema, skip_damaged=skip_damaged)
        front = [pa.repeat(pa.scalar(identity[one.name], one.type), rows.num_rows) for one in _IDENTITY_SCHEMA]
        return pa.table([*front, *rows.columns], names=[*IDENTITY, *columns])
