"""What results were made with."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import ics

_PACKAGES = ("torch", "numpy", "scipy", "pandas")


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
