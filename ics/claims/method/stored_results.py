"""How results of runs and studies are named on disk, and what they were made with."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import ics

_PACKAGES = ("torch", "numpy", "scipy", "pandas")


def digest(value: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits that differ where values differ.

    Example:
        >>> digest({"lr": 0.1, "steps": 2}) == digest({"steps": 2, "lr": 0.1})
        True
    """
    # Sorted, because equal settings may come in another order; sha256, because hash() changes with every process.
    text = json.dumps(value, sort_keys=True, allow_nan=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def slug(name: str) -> str:
    """Return a name as a piece of a file name.

    Example:
        >>> slug("noisy BN (lr 0.5)")
        'noisy-bn-lr-0.5'
    """
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "net"


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
