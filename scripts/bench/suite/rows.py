"""Rows of numbers: rounded, to CSV and from CSV, and what machine they came from."""

from __future__ import annotations

import csv
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ics import stats
from ics.experiments.benchmarking.timing import machine

DOCS = Path(__file__).parents[3] / "docs"
FOLDER = DOCS / "bench"

Row = dict[str, Any]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, each with all columns that any of them has; no rows, no file."""
    found = [dict(row) for row in rows]
    if not found:
        return
    columns = list(dict.fromkeys(name for row in found for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: rounded(value) for name, value in row.items()} for row in found)


def read_rows(folder: Path, pattern: str) -> pd.DataFrame:
    """Return the rows of all files of a pattern but the raw ones; an empty frame if there is none."""
    paths = [path for path in sorted(folder.glob(pattern)) if not path.stem.endswith("_raw")]
    frames = [pd.read_csv(path, dtype={"version": str}) for path in paths]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def rounded(value: Any, digits: int = 5) -> Any:
    """Return a float with so many significant digits, anything else as it is.

    Example:
        >>> rounded(1.0034567), rounded(123456.7), rounded("plain"), rounded(7)
        (1.0035, 123460.0, 'plain', 7)
    """
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def where_and_when() -> Row:
    """Return what a timing should be read beside: the machine, its load, and the date."""
    found = machine()
    return {"cpu": cpu_model(), **found, "backend": stats.backend().name, "date": datetime.now(UTC).date().isoformat()}


def cpu_model() -> str:
    """Return the processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
