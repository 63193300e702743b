"""Small matters of files: names that say what is inside, JSON written whole, and what the results were made with."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import ics
from ics.store.run_file import to_json

_PACKAGES = ("torch", "numpy", "scipy", "pandas")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON, infinities and NaN included, as run.json writes them; the file is replaced whole."""
    text = json.dumps(to_json(value), indent=1, allow_nan=False)
    write_whole(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    value: dict[str, Any] = json.loads(path.read_bytes(), object_hook=_restored)
    return value


def _restored(cells: dict[str, Any]) -> Any:
    return float(cells["$float"]) if cells.keys() == {"$float"} else cells


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file of another name beside `path`, then rename it: there is no half-written file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Return what the results were made with: Python, ics, torch and the rest, and the processor."""
    found = {"python": platform.python_version(), "ics": ics.__version__}
    return found | {name: metadata.version(name) for name in _PACKAGES} | {"processor": processor()}


def processor() -> str:
    """Return the processor's own name where Linux tells it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {os.cpu_count()} cores" if names else platform.machine()
