"""The ledger as frames: a row per claim, per entry or per effect."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ics.ledger.entries import Entry
from ics.ledger.statements import STATEMENTS

NOT_RUN = "not run yet"


def overview(entries: Mapping[str, Entry]) -> pd.DataFrame:
    """Return a row per claim, whether it was run or not."""
    rows = []
    for statement in STATEMENTS.values():
        entry = entries.get(statement.id)
        rows.append(
            {
                "id": statement.id,
                "title": statement.title,
                "sentence": statement.sentence,
                "source": statement.source,
                "verdict": NOT_RUN if entry is None else entry.outcome,
                "budget": None if entry is None else entry.budget,
                "seeds": None if entry is None else len(entry.seeds),
                "needs": None if entry is None else entry.seeds_needed,
                "date": None if entry is None else entry.date[:10],
                "reason": None if entry is None else entry.reason,
            }
        )
    # Int64 and not int64, which cannot be null for a claim that was not run.
    return pd.DataFrame(rows).astype({"seeds": "Int64", "needs": "Int64"})


def details(entries: Mapping[str, Entry]) -> pd.DataFrame:
    """Return a row per entry with what a page shows besides the overview: settings, notes, how it was made."""
    rows = [
        {
            "id": entry.id,
            "published": entry.published,
            "remark": entry.remark,
            "nets": [f"{net}: {told}" for net, told in entry.nets_told.items()],
            "studies": [f"{name}: {told}" for name, told in entry.studies_told.items()],
            "notes": " | ".join(entry.notes),
            "command": entry.command,
            "made": _made(entry),
        }
        for entry in entries.values()
    ]
    return pd.DataFrame(rows)


def effects_frame(entries: Mapping[str, Entry]) -> pd.DataFrame:
    """Return a row per effect and criterion of every entry, with `id` in front."""
    return pd.DataFrame([{"id": entry.id} | effect for entry in entries.values() for effect in entry.effects])


def _made(entry: Entry) -> str:
    """Say in one line when an entry was made, how long it took and with which versions."""
    time = f"{entry.seconds / 60:.0f} min" if entry.seconds >= 600 else f"{entry.seconds:.0f} s"
    made_with = [f"{name} {version}" for name, version in entry.versions.items()]
    commits = [f"commit{'s' * (len(entry.commits) > 1)} {' and '.join(entry.commits)}"] if entry.commits else []
    return ", ".join([entry.date[:10], f"{time} of training and measuring", *made_with, *commits])
