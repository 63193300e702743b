"""What a column and a table of the schema are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ics.errors import UsageError, unknown_name

DType = Literal["int64", "float64", "string", "bool", "list<float64>", "list<int64>"]
STEP_NAME = "step"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type as stored, unit, meaning and source. Value columns may hold null, keys may not."""

    name: str
    dtype: DType
    meaning: str
    unit: str = "1"
    source: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in get_args(DType):
            raise UsageError(
                f"the column {self.name} expects a dtype of {', '.join(get_args(DType))}, got {self.dtype!r}"
            )


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

    @property
    def measured_columns(self) -> tuple[str, ...]:
        """Names of the columns that a measurement fills in: all but the step, which the recorder adds."""
        return tuple(name for name in self.column_names if name != STEP_NAME)

    def column(self, name: str) -> Column:
        """Return the column called `name`; raises `SelectionError` with near matches if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise unknown_name(f"column of {self.name}", name, self.column_names)

    def as_json(self) -> dict[str, Any]:
        """Return the table as run.json holds the tables of a user's own instruments."""
        return {"row": self.row, **{each: [asdict(one) for one in getattr(self, each)] for each in ("keys", "values")}}

    @classmethod
    def of_json(cls, name: str, stored: Mapping[str, Any]) -> Table:
        """Return the table that `as_json` described."""
        keys, values = (tuple(Column(**one) for one in stored[each]) for each in ("keys", "values"))
        return cls(name, stored["row"], keys, values)
