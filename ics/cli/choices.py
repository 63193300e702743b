"""Parses options with a syntax of their own: `--where`, `--columns`, `--every`, `--input-shape`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ics.columns import Table
from ics.errors import UsageError, unknown_name

_CONDITION = re.compile(r"\s*([\w.\-]+)\s*(==|!=|<=|>=|=|<|>|\sin\s)\s*([^=\s].*?)\s*")
_TRUTH = {"true": True, "false": False}

Triple = tuple[str, str, Any]


def parse_where(table: Table, conditions: Iterable[str]) -> list[Triple]:
    """Return (column, operator, value) for each condition, with values of the type of their column.

    Example:
        >>> from ics.schema import GRADIENT_SHIFT
        >>> parse_where(GRADIENT_SHIFT, ["step>=100", "layer = conv1", "parameters in weight,all"])
        [('step', '>=', 100), ('layer', '=', 'conv1'), ('parameters', 'in', ['weight', 'all'])]
    """
    return [_parse_condition(table, text) for text in conditions]


def parse_columns(text: str | None) -> list[str] | None:
    """Return the names in a comma-separated list; None if there is no list."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def parse_shape(text: str) -> tuple[int, ...]:
    """Return the shape written as `3,32,32` or `3x32x32`."""
    parts = re.split(r"[,x ]+", text.strip())
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(
            f"a shape is whole numbers with commas between them, got {text!r}; type e.g. --input-shape 3,32,32"
        )
    return tuple(int(part) for part in parts)


def parse_every(texts: Sequence[str], instruments: Mapping[str, str]) -> dict[str, str]:
    """Return the recipe's `instruments` with their schedules changed.

    Args:
        texts: `N` (all instruments every N steps), `INSTRUMENT=N`, or `INSTRUMENT=SCHEDULE` such as
            `gradient_line=log_spaced(40)`; N = 0 leaves the instrument out.
        instruments: instrument to its schedule, as text.

    Example:
        >>> parse_every(["50", "gradient_line=0"], {"activations": "every(10)", "gradient_line": "every(20)"})
        {'activations': 'every(50)'}
    """
    from ics.recording.instruments import INSTRUMENTS

    chosen = dict(instruments)
    for text in texts:
        name, equals, schedule = text.partition("=")
        if not equals or "(" in name:  # a schedule has `=` of its own: every(10, start=100)
            name, schedule = "", text
        if name and name not in INSTRUMENTS:
            raise unknown_name("instrument", name, INSTRUMENTS)
        schedule = f"every({schedule})" if schedule.isdecimal() else schedule
        chosen |= dict.fromkeys([name] if name else chosen, schedule)
    return {name: schedule for name, schedule in chosen.items() if schedule != "every(0)"}


def _parse_condition(table: Table, text: str) -> Triple:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"a condition is a column, = != < <= > >= or in, and a value, got {text!r}; type e.g. 'step>=100'"
        )
    column, operator, value = match[1], match[2].strip(), match[3]
    if operator == "in":
        return column, operator, [_typed(table, column, part.strip()) for part in value.split(",")]
    return column, operator, _typed(table, column, value)


def _typed(table: Table, column: str, value: str) -> Any:
    if column not in table.column_names and not table.wide:
        raise unknown_name(f"column of {table.name}", column, table.column_names)
    # Columns that a user logged in a wide table are not in its schema; they are always numbers.
    dtype = table.column(column).dtype if column in table.column_names else "float64"
    try:
        match dtype:
            case "string":
                return value
            case "bool":
                return _TRUTH[value.lower()]
            case "int64":
                return int(value)
            case "float64":
                return float(value)
    except (ValueError, KeyError):
        raise UsageError(f"{column} of {table.name} holds {dtype} values, got {value!r}") from None
    raise UsageError(f"{column} of {table.name} holds lists, which --where cannot compare; choose another column")
