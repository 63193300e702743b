"""What a column and a table of the schema are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ics.errors import unknown_name

DType = Literal["int64", "float64", "string", "bool", "list<float64>", "list<int64>"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type as stored, unit, meaning and source. Value columns may hold null, keys may not."""

    name: str
    dtype: DType
    meaning: str
    unit: str = "1"
    source: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One table. A `wide` table takes further float64 columns that the user logs."""

    name: str
    row: str
    keys: tuple[Column, ...]
    values: tuple[Column, ...]
    wide: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """Keys, then values."""
        return self.keys + self.values

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of all columns, in order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """Return the column called `name`; raises `SelectionError` with near matches if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise unknown_name(f"column of {self.name}", name, self.column_names)
