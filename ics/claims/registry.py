"""Every claim by its identifier: the rows of `STATEMENTS`, each with the experiment in the file of its number.

The claim C18 is the value `C18` of the one file here that starts with `c18_`. So a row and a file add a claim. A third
list of the same names could only disagree with them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from ics.claims.method.claim import Claim
from ics.errors import UsageError, unknown_name
from ics.ledger import STATEMENTS

_FILES = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]


def _numbered(name: str) -> Claim:
    """Return the claim of this identifier from its file; a file may hold two, as `c25_c26_...` does."""
    (file,) = [stem for stem in _FILES if name.lower() in stem.split("_")[:2]]
    claim: Claim = getattr(importlib.import_module(f"ics.claims.{file}"), name)
    return claim


CLAIMS: Mapping[str, Claim] = {name: _numbered(name) for name in STATEMENTS}
"""Identifier to claim."""


def claims_named(names: Iterable[str]) -> tuple[Claim, ...]:
    """Return the claims called so, each once, in the order of the ledger; `"all"` are all of them.

    Raises:
        SelectionError: there is no such claim.
        UsageError: none was named.

    Example:
        >>> [claim.id for claim in claims_named(["c08", "C07"])]
        ['C07', 'C08']
    """
    wanted = {name.upper() for name in names}
    if not wanted:
        raise UsageError("expected a claim, got none; type e.g. C07, or all")
    if wanted == {"ALL"}:
        return tuple(CLAIMS.values())
    for name in sorted(wanted):
        if name not in CLAIMS:
            raise unknown_name("claim", name, CLAIMS)
    return tuple(claim for name, claim in CLAIMS.items() if name in wanted)
