"""Turns users' conditions on rows into expressions that Parquet can answer without reading every row.

A condition keeps the rows that the same comparison keeps in pandas: a missing value (null or NaN) is unequal to
everything and otherwise satisfies nothing. `=` and `!=` with None test whether a value is missing.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ics.errors import UsageError, unknown_name

Where = Mapping[str, Any] | Sequence[tuple[str, str, Any]]

_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS = ("=", "==", "!=", "<", "<=", ">", ">=", "in")
_EXAMPLE = 'type e.g. where={"layer": "conv1"} or where=[("step", ">=", 100)]'


def parse_where(where: Where | None, *, table: str, schema: pa.Schema) -> list[Condition]:
    """Return the conditions in `where`, checked against the columns of a table.

    Args:
        where: column to value or list of values; or a list of (column, operator, value) with an operator of
            `= == != < <= > >= in`. Every condition must hold.
        table: name of the table, for messages.
        schema: its columns.

    Raises:
        SelectionError: an unknown column or operator, with near matches.
        UsageError: another form, or a value that cannot be compared with the column.
    """
    return [_parse(*triple, table=table, schema=schema) for triple in triples(where)]


def triples(where: Where | None) -> list[tuple[str, str, Any]]:
    """Return `where`, in either of its forms, as (column, operator, value) triples."""
    if where is None:
        return []
    if isinstance(where, Mapping):
        return [(name, "in" if _is_list(value) else "=", value) for name, value in where.items()]
    if not _is_list(where) or not all(isinstance(one, tuple | list) and len(one) == 3 for one in where):
        raise UsageError(f"where expects a mapping or a list of (column, operator, value), got {where!r}; {_EXAMPLE}")
    return [(one[0], one[1], one[2]) for one in where]


def conjunction(conditions: Iterable[Condition]) -> pc.Expression | None:
    """Return the expression that holds if all conditions hold; None if there are none."""
    expressions = [condition.expression() for condition in conditions]
    return functools.reduce(operator.and_, expressions) if expressions else None


def _parse(name: str, sign: str, value: Any, *, table: str, schema: pa.Schema) -> Condition:
    if name not in schema.names:
        raise unknown_name(f"column of {table}", str(name), schema.names)
    if sign not in OPERATORS:
        raise unknown_name("operator of where", str(sign), OPERATORS)
    if (sign == "in") != _is_list(value):
        wanted = "a list of values" if sign == "in" else "one value"
        raise UsageError(f"{sign!r} on {name} of {table} expects {wanted}, got {value!r}; {_EXAMPLE}")
    dtype = schema.field(name).type
    if pa.types.is_list(dtype):
        raise UsageError(f"{name} of {table} holds lists, which where cannot compare, got {value!r}; filter the frame")
    values = [_typed(one, dtype, name=name, table=table) for one in (value if sign == "in" else [value])]
    if None in values and sign not in ("=", "==", "!=", "in"):
        raise UsageError(f"{sign!r} on {name} of {table} expects a value, got {value!r}; compare None with = or !=")
    return Condition(name, "=" if sign == "==" else sign, tuple(values), dtype)


def _typed(value: Any, dtype: pa.DataType, *, name: str, table: str) -> Any:
    """Return a value as the type of its column, None if it is None or NaN."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if pa.types.is_integer(dtype) and number and float(value).is_integer() and abs(value) < 2**63:
        return int(value)
    if pa.types.is_floating(dtype) and number:
        return float(value)
    if pa.types.is_string(dtype) and isinstance(value, str):
        return str(value)
    if pa.types.is_boolean(dtype) and isinstance(value, bool):
        return value
    raise UsageError(
        f"{name} of {table} holds {dtype} values, got {value!r} ({type(value).__name__}); compare it with such a value"
    )


def _is_list(value: Any) -> bool:
    return not isinstance(value, str | bytes | Mapping) and hasattr(value, "__iter__") and getattr(value, "ndim", 1) > 0


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a column with a value, or with several for `in`; None stands for a missing value."""

    column: str
    sign: str
    values: tuple[Any, ...]
    dtype: pa.DataType

    @property
    def late(self) -> bool:
        """Whether the condition can only be tested on rows that were read.

        Parquet's least and greatest values ignore NaN. From 1, NaN, 1 a reader concludes that every value is 1, and
        skips the rows that are not.
        """
        return pa.types.is_floating(self.dtype) and (self.sign == "!=" or None in self.values)

    def expression(self) -> pc.Expression:
        """Return the condition as an Arrow expression."""
        field = pc.field(self.column)
        missing = field.is_null(nan_is_null=pa.types.is_floating(self.dtype))
        present = [value for value in self.values if value is not None]
        match self.sign:
            case "!=":
                return (field != self._scalar(present[0])) | missing if present else ~missing
            case "=" | "in":
                return self._among(present) | missing if None in self.values else self._among(present)
        return _COMPARISONS[self.sign](field, self._scalar(present[0]))

    def _among(self, present: Sequence[Any]) -> pc.Expression:
        if len(present) == 1:
            return pc.field(self.column) == self._scalar(present[0])
        # A hash tells 0.0 from -0.0, a comparison does not.
        further = [-value for value in present if value == 0] if pa.types.is_floating(self.dtype) else []
        return pc.field(self.column).isin(pa.array([*present, *further], self.dtype))

    def _scalar(self, value: Any) -> pa.Scalar:
        return pa.scalar(value, self.dtype)
