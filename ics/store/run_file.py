"""run.json: everything about a run except its rows. Strict JSON, replaced whole at every change.

JSON has no NaN and no infinity, and strict readers refuse a file that contains them. So they are written as
`{"$float": "nan"}`, `{"$float": "inf"}` and `{"$float": "-inf"}`, and read back as floats.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ics.errors import NotARunError, SchemaVersionError, UsageError
from ics.schema import SCHEMA_VERSION
from ics.store.layout import RUN_FILE, write_whole

_FLOAT = "$float"


def to_json(value: Any, *, place: str = "info") -> Any:
    """Return `value` in a form that JSON can hold.

    Tuples, sets (sorted) and numpy arrays become lists, dataclasses become objects, paths and dates strings,
    enumerations their value, numpy scalars numbers. Keys that are numbers become strings.

    Args:
        value: the value to store.
        place: its position, for error messages.

    Raises:
        UsageError: something has no form in JSON; the message names its position.

    Example:
        >>> to_json({"betas": (0.9, 0.99), "clip": float("inf")})
        {'betas': [0.9, 0.99], 'clip': {'$float': 'inf'}}
    """
    # The order matters: members of an IntEnum and booleans are ints too, and np.float64 is a float.
    match value:
        case enum.Enum():
            return to_json(value.value, place=place)
        case None | bool():
            return value
        case str():
            return str(value)
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else {_FLOAT: str(float(value))}
        case np.generic() | np.ndarray():
            return to_json(value.tolist(), place=place)
        case Mapping():
            return {_key(key, place): to_json(cell, place=f"{place}.{key}") for key, cell in value.items()}
        case list() | tuple():
            return [to_json(cell, place=f"{place}[{number}]") for number, cell in enumerate(value)]
        case set() | frozenset():
            return to_json(sorted(value, key=str), place=place)
        case Path():
            return str(value)
        case datetime() | date():
            return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cells = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return to_json(cells, place=place)
    raise UsageError(
        f"run.json holds numbers, strings, booleans, None, lists and mappings, got {type(value).__name__} at {place}; "
        f"hand in str(...) of it"
    )


def write_run_file(folder: Path, info: Mapping[str, Any]) -> None:
    """Replace the run.json of a run by `info` (as `to_json` returns it)."""
    text = json.dumps(info, indent=1, allow_nan=False)

    def write(file: BinaryIO) -> None:
        file.write(text.encode("ascii") + b"\n")

    write_whole(folder / RUN_FILE, write)


def read_run_file(folder: Path) -> dict[str, Any]:
    """Return what the run.json in `folder` holds.

    Raises:
        NotARunError: it does not exist, is not JSON, or was written by another program.
        SchemaVersionError: it was written by a newer schema.
    """
    path = folder / RUN_FILE
    try:
        info = json.loads(path.read_bytes(), object_hook=_restore)
    except OSError as error:
        raise NotARunError(
            f"expected a run, a folder that holds a readable {RUN_FILE}, got {folder} ({error.strerror}); "
            "type the folder that a recorder wrote to"
        ) from None
    except ValueError as error:
        raise NotARunError(
            f"expected a {RUN_FILE} of JSON, got {path}, which cannot be read ({error}); restore it from a copy, "
            "or read the Parquet parts beside it with pandas.read_parquet"
        ) from None
    version = info.get("schema_version") if isinstance(info, dict) else None
    if not isinstance(version, int):
        raise NotARunError(
            f"expected a {RUN_FILE} with a schema_version, got {path} without one, which another program wrote; "
            "type the folder that a recorder wrote to"
        )
    check_version(version, path)
    return info


def own_tables(folder: Path) -> tuple[str, ...]:
    """Return the names of the tables that the run in `folder`, if there is one, has in addition to the schema's."""
    # Lenient, as it serves to replace a run: one whose run.json is damaged must be replaceable too.
    try:
        tables = json.loads((folder / RUN_FILE).read_bytes()).get("tables") or {}
    except (OSError, ValueError, AttributeError):
        return ()
    return tuple(name for name in tables if name.isidentifier())  # no name may lead out of the folder


def check_version(version: int, path: Path) -> None:
    """Raise `SchemaVersionError` if the file at `path` was written by a newer schema than this one."""
    if version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"expected schema version {SCHEMA_VERSION} or older, got {version} in {path}, written by a newer ics; "
            "type git pull in the checkout of ics"
        )


def _key(key: Any, place: str) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int | float) and not isinstance(key, bool):
        return str(key)
    raise UsageError(
        f"run.json takes strings as keys, got {key!r} ({type(key).__name__}) in {place}; hand in a string instead"
    )


def _restore(cells: dict[str, Any]) -> Any:
    return float(cells[_FLOAT]) if cells.keys() == {_FLOAT} else cells
