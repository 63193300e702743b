"""The ledger: the result of each claim under each budget, with everything that is needed to reproduce it.

`ledger/<budget>/C07.json` holds the verdict, the rule, the effects and their origin. `C07.parquet` holds the numbers
behind them, one row per measure, setting and seed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from ics.errors import StoreError
from ics.ledger.files import read_json, write_json, write_whole

BUDGET_NAMES = ("quick", "cpu", "paper")
LEDGER_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The result of one claim under one budget, in plain values that JSON can hold.

    Attributes:
        id, budget, outcome, reason: the verdict and its sentence.
        seeds_needed: about how many seeds would settle an open claim; null if unknown or more than 1000.
        seeds: the seeds that were asked for.
        effects: a mapping per effect and criterion: estimate, interval, region, vote, and the value of every seed.
        nets: net to its settings; studies: study to its function and settings.
        nets_told, studies_told: the same, each in one line for readers.
        published, remark: those of the claim at the time of the run.
        notes: runs that failed, and what recorders noted.
        command, date, versions: how, when and with what it was made.
        commits: git commits of the working folders in which the runs were made.
        seconds: time of all runs and studies behind it, including those that it shares with other claims.
    """

    id: str
    budget: str
    outcome: str
    reason: str
    seeds_needed: int | None
    seeds: list[int]
    effects: list[dict[str, Any]]
    nets: dict[str, dict[str, Any]]
    studies: dict[str, dict[str, Any]]
    published: str
    remark: str
    notes: list[str]
    command: str
    date: str
    seconds: float
    versions: dict[str, str]
    commits: list[str] = field(default_factory=list)
    nets_told: dict[str, str] = field(default_factory=dict)
    studies_told: dict[str, str] = field(default_factory=dict)
    ledger_version: int = field(default=LEDGER_VERSION)


def write_entry(root: Path, entry: Entry) -> Path:
    """Write an entry and its table into the ledger below `root`; return the JSON file."""
    path = entry_path(root, entry.budget, entry.id)
    # The table first, so that an entry never lacks its numbers, even if the process dies in between.
    table = supporting_table(entry)
    write_whole(path.with_suffix(".parquet"), lambda file: table.to_parquet(file, index=False))
    write_json(path, asdict(entry))
    return path


def supporting_table(entry: Entry) -> pd.DataFrame:
    """Return the numbers behind an entry: a row per measure, setting and seed."""
    columns = ["claim", "budget", "measure", "setting", "meaning", "unit", "scale", "seed", "value"]
    rows = [
        (entry.id, entry.budget, *(effect[name] for name in columns[2:7]), seed, number)
        for effect in entry.effects
        for seed, number in effect.get("values", [])
    ]
    # An effect that two criteria judge is listed twice, but measured once.
    frame = pd.DataFrame(rows, columns=columns).drop_duplicates(columns[:-1], ignore_index=True)
    return frame.astype({"seed": "int64", "value": "float64"})


def entry_path(root: Path, budget: str, claim: str) -> Path:
    """Return where an entry lies."""
    return root / "ledger" / budget / f"{claim}.json"


def read_ledger(root: Path) -> list[Entry]:
    """Return every entry below `root`, in the order of the claims, the newest of each claim last.

    Raises:
        StoreError: an entry cannot be read.
    """
    paths = sorted((root / "ledger").glob("*/C*.json"))
    entries = [read_entry(path) for path in paths]
    return sorted(entries, key=lambda entry: (entry.id, entry.date))


def read_entry(path: Path) -> Entry:
    """Read one entry."""
    try:
        values = read_json(path)
        # An entry of a newer version may hold more; what this version does not know, it does not show.
        names = {setting.name for setting in fields(Entry)}
        return Entry(**{name: value for name, value in values.items() if name in names})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"expected an entry of the ledger, got {path}, which cannot be read ({error}); run it again"
        ) from None


def latest(entries: list[Entry], *, budget: str | None = None) -> dict[str, Entry]:
    """Return the newest entry of each claim, of one budget or of any, in the order of the claims."""
    chosen = [entry for entry in entries if budget is None or entry.budget == budget]
    newest = {entry.id: entry for entry in sorted(chosen, key=lambda entry: entry.date)}
    return dict(sorted(newest.items()))
