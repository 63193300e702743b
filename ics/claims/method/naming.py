"""Names of folders: a digest of settings, and names as pieces of file names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any


def digest(value: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits that differ where values differ.

    Example:
        >>> digest({"lr": 0.1, "steps": 2}) == digest({"steps": 2, "lr": 0.1})
        True
    """
    text = json.dumps(value, sort_keys=True, allow_nan=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def slug(name: str) -> str:
    """Return a name as a piece of a file name.

    Example:
        >>> slug("noisy BN (lr 0.5)")
        'noisy-bn-lr-0.5'
    """
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "net"
