"""Files that are either complete or absent, and JSON with infinities."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ics.store.run_file import to_json


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON with infinities and NaN in the form that run.json uses; replace the file as a whole.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_json(Path(folder) / "entry.json", {"loss": float("inf")})
        ...     read_json(Path(folder) / "entry.json")
        {'loss': inf}
    """
    # Python would write a bare NaN, which is no JSON: browsers and most other readers refuse such a file.
    text = json.dumps(to_json(value), indent=1, allow_nan=False)
    write_whole(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    value: dict[str, Any] = json.loads(path.read_bytes(), object_hook=_restored)
    return value


def _restored(cells: dict[str, Any]) -> Any:
    return float(cells["$float"]) if cells.keys() == {"$float"} else cells


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file of another name beside `path`, then rename it, so no half-written file has that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, as a rename is atomic within one file system only; with the process, as two may write one entry.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
