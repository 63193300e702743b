"""What passes between packages: `Layer` names what is measured, `Block` holds the rows measured.

Sufficient statistics travel as one tensor (statistics, C) a row, or as one of all rows that were measured together
(`Stacked`), in the column `PACKED` (or `PACKED_CHANNELS`, if the row is to have columns per channel) of a block. They
become the columns of the table on the host: laying them out costs more than measuring a small tensor. `BOUNDED` tells
which rows are of an activation function with asymptotes, for which alone saturated values are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PACKED = "packed"
PACKED_CHANNELS = "packed_channels"
BOUNDED = "bounded"


@dataclass(frozen=True, slots=True)
class Layer:
    """A module with weights, together with the normalisation that directly follows it.

    Attributes:
        name: dotted name of the module with weights, as in `state_dict`, wrapper prefixes stripped.
        index: position in the order of execution, from 0.
        kind: class name of the module, e.g. `"Conv2d"`.
        modules: dotted names of the modules that make up the layer, the one with the weight first.
        weight: names of the parameters called *the weight* (the first module's `weight`, or all of its matrices).
        parameters: names of all parameters of the layer, the normalisation's gamma and beta included.
        shape: shape of the weight.
        num_parameters: number of scalars in `parameters`.
    """

    name: str
    index: int
    kind: str
    modules: tuple[str, ...]
    weight: tuple[str, ...]
    parameters: tuple[str, ...]
    shape: tuple[int, ...]
    num_parameters: int


@dataclass(frozen=True, slots=True, eq=False)
class Stacked(Sequence[Any]):
    """A column whose cells are parts of one tensor: one tensor is handed on and copied, not as many as there are rows.

    Attributes:
        stack: a tensor; its parts along the first axis are the cells.
        places: of each row the number of its part, which several rows may share; -1 for none.
        others: row to cell, for rows without a part; null where there is no such cell.
    """

    stack: Any
    places: Sequence[int]
    others: Mapping[int, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: Any) -> Any:
        place = self.places[row]
        return self.stack[place] if place >= 0 else self.others.get(row)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one table, their values still on the device.

    Attributes:
        table: name of the table in `ics.schema`.
        columns: column name to one cell per row. A cell is a string, a number, None (null), or a tensor that has
            not been copied to the host: 0-dimensional for a number, 1-dimensional for a list column.
    """

    table: str
    columns: Mapping[str, Sequence[Any]]

    def __post_init__(self) -> None:
        lengths = {name: len(cells) for name, cells in self.columns.items()}
        assert len(set(lengths.values())) <= 1, f"columns of {self.table} differ in length: {lengths}"

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()), ()))
