"""Random rows for every table, with all that a cell may hold, and a form in which rows can be compared exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ics.schema import TABLES, Table
from ics.store import Run, Writer

FLOATS = (0.0, -0.0, 1.5, -2.75, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 1 / 3)
INTEGERS = (0, 1, -1, 7, 2**53 + 1, 2**63 - 1, -(2**63))
STRINGS = ("", "conv1", "features.10.weight", "Gewicht ü", "日本", "a\nb", "'\"\\")
CELLS: Mapping[str, Sequence[Any]] = {
    "float64": (*FLOATS, None),
    "int64": (*INTEGERS, None),
    "string": (*STRINGS, None),
    "bool": (True, False, None),
}


def random_cell(rng: np.random.Generator, dtype: str, *, key: bool = False) -> Any:
    """One cell of a value column; a key is neither null nor NaN."""
    if dtype.startswith("list"):
        if rng.random() < 0.2:
            return None
        item = dtype[len("list<") : -1]
        cells = [random_cell(rng, item) for _ in range(int(rng.integers(0, 4)))]
        if None in cells:
            return cells
        return np.array(cells, item) if rng.random() < 0.5 else tuple(cells)
    cells = [cell for cell in CELLS[dtype] if not key or (cell is not None and cell == cell)]
    return cells[rng.integers(len(cells))]


def random_columns(rng: np.random.Generator, table: Table, *, num_rows: int) -> dict[str, list[Any]]:
    """Rows of a table; a wide one gets two logged columns."""
    keys = {column.name for column in table.keys}
    columns = {
        column.name: [random_cell(rng, column.dtype, key=column.name in keys) for _ in range(num_rows)]
        for column in table.columns
    }
    if table.wide:
        columns |= {name: [random_cell(rng, "float64") for _ in range(num_rows)] for name in ("accuracy", "test_loss")}
    return columns


def plain(cell: Any) -> Any:
    """A cell as something that equals itself, bit for bit: NaN included, 0.0 and -0.0 apart, null apart from both."""
    if isinstance(cell, np.ndarray | list | tuple):
        return tuple(plain(one) for one in cell)
    cell = cell.item() if isinstance(cell, np.generic) else cell
    return f"float {cell!r}" if isinstance(cell, float) else cell


def as_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Columns as a list of rows."""
    return [
        dict(zip(columns, (plain(cell) for cell in cells), strict=True))
        for cells in zip(*columns.values(), strict=True)
    ]


def stored_rows(run: Run, table: str, **how: Any) -> list[dict[str, Any]]:
    """The rows of a run, by the reader that keeps null and NaN apart."""
    return [{name: plain(cell) for name, cell in row.items()} for row in run.arrow(table, **how).to_pylist()]


def in_order(rows: Sequence[dict[str, Any]], table: str) -> list[dict[str, Any]]:
    """Rows sorted as docs/schema.md says, by plain Python."""
    keys = [column.name for column in TABLES[table].keys]
    if "layer_index" in keys:
        keys = [
            "layer_index",
            "layer",
            *(name for name in keys if name not in ("layer_index", "layer", "step")),
            "step",
        ]

    def sort_key(row: dict[str, Any]) -> tuple[Any, ...]:
        cells = [row[name] for name in keys]
        return tuple(
            float(cell.removeprefix("float ")) if isinstance(cell, str) and cell.startswith("float ") else cell
            for cell in cells
        )

    return sorted(rows, key=sort_key)


def site_rows(step: int, *, layers: Sequence[str] = ("conv1", "conv2")) -> dict[str, list[Any]]:
    """Two sites of each layer at one step; the mean tells step, layer and site apart."""
    named = [(index, layer, site) for index, layer in enumerate(layers) for site in ("input", "activation")]
    return {
        "step": [step] * len(named),
        "layer": [layer for _, layer, _ in named],
        "layer_index": [index for index, _, _ in named],
        "call": [0] * len(named),
        "site": [site for _, _, site in named],
        "mean": [step + index / 100 + (0.001 if site == "input" else 0) for index, _, site in named],
        "channel_mean": [np.full(3, float(step)) for _ in named],
    }


def write_run(path: Path, *, steps: int = 6, state: str | None = "completed", **info: Any) -> Run:
    """A run with a part per step of `steps` and `activations`, merged if it has a `state`."""
    from ics.store import open_run

    writer = Writer(path, info=info)
    for step in range(steps):
        writer.append("steps", {"step": [step], "loss": [1 / (step + 1)], "accuracy": [step / 10]})
        writer.append("activations", site_rows(step))
        writer.flush()
    if state is not None:
        writer.close(state)
    return open_run(path)
