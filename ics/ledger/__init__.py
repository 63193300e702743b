"""The claims ledger: what is said about BatchNorm and what was found, read and written without torch."""

from ics.ledger.entries import BUDGET_NAMES, Entry, entry_path, latest, read_ledger, write_entry
from ics.ledger.frames import details, effects_frame, overview
from ics.ledger.statements import STATEMENTS, Statement

__all__ = [
    "BUDGET_NAMES",
    "STATEMENTS",
    "Entry",
    "Statement",
    "details",
    "effects_frame",
    "entry_path",
    "latest",
    "overview",
    "read_ledger",
    "write_entry",
]
