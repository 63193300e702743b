"""The ledger: what was found for each claim under each budget, with all that is needed to find it again.

`ledger/<budget>/C07.json` holds the verdict, the rule, the effects and where they come from; `C07.parquet` the numbers
that support it, a row per measure, setting and seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from ics.errors import StoreError
from ics.experiments.claims.files import read_json, write_json, write_whole
from ics.experiments.claims.rules import Verdict, Vote
from ics.experiments.claims.statements import STATEMENTS
from ics.experiments.config import RunConfig

NOT_RUN, NOT_WRITTEN = "not run yet", "no experiment yet"
LEDGER_VERSION = 1

_DEFAULTS: Mapping[str, Any] = {one.name: one.default for one in fields(RunConfig) if one.default is not MISSING}
_TOLD = frozenset(
    (
        *("net", "recipe", "model", "data", "norm", "hidden", "steps", "batch_size", "learning_rate"),
        *("seed", "data_root", "device", "num_threads", "evaluate_every"),
        *("instruments", "options", "preset", "budget", "layers", "line_range", "line_points"),
    )
)
"""Settings that a line about a net has anyway, or leaves out because they decide what is measured and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What was found for one claim under one budget, in plain values as JSON holds them.

    Attributes:
        id, budget, outcome, reason: the verdict and its sentence.
        seeds_needed: where it is inconclusive; null if unknown or more than 1000.
        seeds: the seeds that were asked for.
        effects: a mapping per effect and criterion, see `effect_rows`.
        nets: net to its settings; studies: study to its function and settings.
        published, remark: of the claim, when it was run.
        notes: runs that failed, and what recorders noted.
        command, date, versions: how, when and with what it was made.
        seconds: time of the runs that this call made, and of judging; runs that were there took none.
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
    ledger_version: int = field(default=LEDGER_VERSION)


def effect_rows(verdict: Verdict, others: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
    """Return a mapping per vote, and per effect of `others`, which have none: estimate, interval, region and vote."""
    return [_vote_row(vote) for vote in verdict.votes] + [_effect_row(effect) for effect in others]


def _vote_row(vote: Vote) -> dict[str, Any]:
    criterion = vote.criterion
    row = {"measure": criterion.measure} if vote.effect is None else _effect_row(vote.effect)
    return row | {
        "criterion": criterion.text,
        "why": criterion.why,
        "region_low": criterion.low,
        "region_high": criterion.high,
        "exact": criterion.exact,
        "vote": vote.outcome.value,
        "vote_reason": vote.reason,
        "seeds_needed": vote.seeds_needed,
    }


def _effect_row(effect: Any) -> dict[str, Any]:
    return asdict(effect) | asdict(effect.estimate) | {"values": [list(pair) for pair in effect.values]}


def write_entry(root: Path, entry: Entry) -> Path:
    """Write an entry and its table into the ledger below `root`; return the JSON file."""
    path = entry_path(root, entry.budget, entry.id)
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
        known = {setting.name for setting in fields(Entry)}
        return Entry(**{name: value for name, value in values.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"expected an entry of the ledger, got {path}, which cannot be read ({error}); run it again"
        ) from None


def latest(entries: list[Entry], *, budget: str | None = None) -> dict[str, Entry]:
    """Return the newest entry of each claim, of one budget or of any."""
    chosen = [entry for entry in entries if budget is None or entry.budget == budget]
    return {entry.id: entry for entry in sorted(chosen, key=lambda entry: entry.date)}


def overview(entries: Mapping[str, Entry], *, runnable: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row per claim, all 31, whether it was run, was not run yet, or is not written yet."""
    rows = []
    for statement in STATEMENTS.values():
        entry = entries.get(statement.id)
        absent = NOT_RUN if statement.id in runnable else NOT_WRITTEN
        rows.append(
            {
                "id": statement.id,
                "title": statement.title,
                "sentence": statement.sentence,
                "source": statement.source,
                "verdict": absent if entry is None else entry.outcome,
                "budget": None if entry is None else entry.budget,
                "seeds": None if entry is None else len(entry.seeds),
                "needs": None if entry is None else entry.seeds_needed,
                "date": None if entry is None else entry.date[:10],
                "reason": None if entry is None else entry.reason,
            }
        )
    return pd.DataFrame(rows).astype({"seeds": "Int64", "needs": "Int64"})


def details(entries: Mapping[str, Entry]) -> pd.DataFrame:
    """Return a row per entry with what a page tells beside the overview: settings, notes, how it was made."""
    rows = [
        {
            "id": entry.id,
            "published": entry.published,
            "remark": entry.remark,
            "nets": [f"{net}: {settings_text(one)}" for net, one in entry.nets.items()],
            "studies": [f"{name}: {study_text(one)}" for name, one in entry.studies.items()],
            "notes": " | ".join(entry.notes),
            "command": entry.command,
            "made": f"{entry.date[:10]}, {entry.seconds:.0f} s of new runs, "
            + ", ".join(f"{name} {version}" for name, version in entry.versions.items()),
        }
        for entry in entries.values()
    ]
    return pd.DataFrame(rows)


def effects_frame(entries: Mapping[str, Entry]) -> pd.DataFrame:
    """Return a row per effect and criterion of every entry, with `id` in front."""
    return pd.DataFrame([{"id": entry.id} | effect for entry in entries.values() for effect in entry.effects])


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return the settings of a net in a line for readers: the usual ones, then all others that are not the default.

    Left out is what is measured and where it runs. Settings that are missing have their defaults.

    Example:
        >>> from ics.experiments import recipe
        >>> settings_text(recipe("deep-linear").as_dict())
        'deep_linear on gaussian, norm none, 10000 steps of batch all, lr 1e-06, init glorot, loss sum_squared_error'
    """
    every = {**_DEFAULTS, **settings}
    shape = f" {'x'.join(map(str, every['hidden']))} {every['activation']}" if every["model"] == "mlp" else ""
    size = "all" if every["batch_size"] is None else every["batch_size"]
    told = {*_TOLD, "activation"} if shape else _TOLD
    others = "".join(
        f", {name.replace('_', ' ') if value is True else f'{name} {value}'}"
        for name, value in every.items()
        if name not in told and value not in (_DEFAULTS.get(name), {})
    )
    return (
        f"{every['model'].rpartition(':')[2]}{shape} on {every['data'].removeprefix('images:')}, "
        f"norm {every['norm']}, {every['steps']} steps of batch {size}, lr {every['learning_rate']:g}{others}"
    )


def study_text(study: Mapping[str, Any]) -> str:
    """Return a study in a line for readers; trainings among its settings are told as those of nets are.

    Example:
        >>> study_text({"function": "my_studies:growth", "settings": {"depth": 4}})
        'growth, depth 4'
    """
    settings = [f"{name} {_setting_text(value)}" for name, value in study["settings"].items()]
    return ", ".join([study["function"].partition(":")[2], *settings])


def _setting_text(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(one, dict) and "model" in one for one in value):
        return "; ".join(f"{one.get('net', '')}: {settings_text(one)}" for one in value)
    return str(value)
