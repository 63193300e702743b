"""Rows on the host, before they become columns: the values of tensors are kept per column, not per cell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class TensorCells:
    """A column with tensors among its cells.

    Attributes:
        rows: numbers of the rows whose cell is a tensor, ascending.
        values: their values, flattened, one cell after another; or a list of arrays if they were not copied into one
            piece. Read it with `flat` or `arrays`.
        shapes: shape of each of these cells.
        others: row to cell, for cells that are neither a tensor nor None.
        num_rows: rows of the column, including those that are None.
    """

    rows: np.ndarray
    values: np.ndarray | list[np.ndarray]
    shapes: Sequence[tuple[int, ...]]
    others: Mapping[int, Any]
    num_rows: int

    @classmethod
    def merged(cls, parts: Sequence[TensorCells]) -> TensorCells:
        """Return the cells of one column that came from several devices or in several dtypes."""
        if len(parts) == 1:
            return parts[0]
        rows = np.concatenate([part.rows for part in parts])
        order = np.argsort(rows)
        shapes = [shape for part in parts for shape in part.shapes]
        values: np.ndarray | list[np.ndarray]
        if all(shape == () for shape in shapes):
            values = np.concatenate([part.flat for part in parts])[order]
        else:
            arrays = [array for part in parts for array in part.arrays()]
            values = [arrays[number] for number in order.tolist()]
        return cls(
            rows[order], values, [shapes[number] for number in order.tolist()], parts[0].others, parts[0].num_rows
        )

    @property
    def flat(self) -> np.ndarray:
        """All values, one cell after another."""
        if isinstance(self.values, np.ndarray):
            return self.values
        return np.concatenate([array.reshape(-1) for array in self.values])

    @property
    def sizes(self) -> np.ndarray:
        """How many values each tensor has."""
        return np.fromiter(map(math.prod, self.shapes), np.int64, len(self.shapes))

    def arrays(self) -> list[np.ndarray]:
        """Return the tensors one by one, each in its shape, without copying."""
        if isinstance(self.values, list):
            return self.values
        ends = np.cumsum(self.sizes).tolist()
        starts = [0, *ends[:-1]]
        return [
            self.values[start:end].reshape(shape) for start, end, shape in zip(starts, ends, self.shapes, strict=True)
        ]

    def cells(self) -> list[Any]:
        """Return the column cell by cell: arrays in their shapes, other cells as they are, None for null."""
        cells: list[Any] = [None] * self.num_rows
        for row, cell in (*self.others.items(), *zip(self.rows.tolist(), self.arrays(), strict=True)):
            cells[row] = cell
        return cells

    def by_shape(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, for each shape that occurs, the rows that have it and their tensors stacked on a new first axis.

        Example:
            >>> cells = TensorCells(np.array([0, 2]), np.arange(6.0), [(3,), (3,)], {}, 3)
            >>> [(rows.tolist(), stack.tolist()) for rows, stack in cells.by_shape()]
            [([0, 2], [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])]
        """
        if isinstance(self.values, np.ndarray) and len(set(self.shapes)) == 1:
            yield self.rows, self.values.reshape(len(self.rows), *self.shapes[0])
            return
        arrays = self.arrays()
        for shape in dict.fromkeys(self.shapes):
            chosen = [number for number, one in enumerate(self.shapes) if one == shape]
            yield self.rows[chosen], np.stack([arrays[number] for number in chosen])


@dataclass(frozen=True, slots=True)
class HostBlock:
    """Rows of one table on the host.

    Attributes:
        table: name of the table in `ics.schema`.
        columns: column name to a plain list of cells, or to `TensorCells` where there is a tensor among them.
    """

    table: str
    columns: Mapping[str, list[Any] | TensorCells]

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        for cells in self.columns.values():
            return cells.num_rows if isinstance(cells, TensorCells) else len(cells)
        return 0
