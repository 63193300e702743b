"""Tables of several runs as comparisons need them: None where not recorded, and one net one configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import pandas as pd

from ics.errors import UsageError

# Settings that may differ between runs that count as seeds of one net.
_FREE = {
    "seed",
    "instruments",
    "device",
    "data_root",
    "layers",
    "evaluate_every",
    "line_points",
    "net",
    "name",
    "recipe",
}


class RunLike(Protocol):
    """An opened run: `ics.store.Run`, or anything with its name, tables, info and table."""

    @property
    def name(self) -> str:
        """Name of the folder."""

    @property
    def tables(self) -> Sequence[str]:
        """Tables that have rows."""

    @property
    def info(self) -> Mapping[str, Any]:
        """What run.json holds."""

    def table(self, name: str, *, columns: Any = None, where: Any = None) -> pd.DataFrame:
        """Rows of a table."""


def as_runs(runs: RunLike | Iterable[RunLike]) -> list[RunLike]:
    """Return one run or several as a list; raises `UsageError` if there is none."""
    several = list(runs) if isinstance(runs, Iterable) else [runs]
    if not several or not all(hasattr(run, "tables") and hasattr(run, "info") for run in several):
        raise UsageError('expected one run or more; type runs = ics.open_runs("runs/*")')
    return several


def read(
    runs: Iterable[RunLike], table: str, *, columns: Sequence[str] | None = None, where: Any = None
) -> pd.DataFrame | None:
    """Return the rows of a table of all runs with `run`, `net` and `seed` in front; None where no run has any.

    Differs from `Runs.table` in two things: runs that did not record the table are passed over, and the net is
    `net_labels`, so that runs of different configurations are never taken for seeds of one net.
    """
    several = list(runs)
    labels = net_labels(several)
    frames = []
    for run in several:
        if table not in run.tables:
            continue
        frame = run.table(table, columns=None if columns is None else list(columns), where=where)
        if not frame.empty:
            identity = {"run": run.name, "net": labels[run.name], "seed": seed_of(run)}
            frames.append(pd.concat([pd.DataFrame(identity, index=frame.index), frame], axis=1))
    return pd.concat(frames, ignore_index=True) if frames else None


def net_labels(runs: Iterable[RunLike]) -> dict[str, str]:
    """Return run name to net label: the configured `net` (or `name`, or the run's name).

    Where runs of one net were configured differently (another learning rate, say), the settings that differ are added:
    their envelope would be no band over seeds.
    """
    by_net: dict[str, list[RunLike]] = {}
    for run in runs:
        by_net.setdefault(_net_of(run), []).append(run)
    labels = {}
    for net, members in by_net.items():
        differing = _differing([_settings(run) for run in members])
        for run in members:
            settings = _settings(run)
            parts = [f"{name} {settings.get(name)}" for name in differing]
            labels[run.name] = ", ".join([net, *parts])
    return labels


def seed_of(run: RunLike) -> int | None:
    """Return the seed a run was started with, None where it was not stored."""
    seed = (run.info.get("config") or {}).get("seed", run.info.get("seed"))
    return seed if isinstance(seed, int) else None


def _net_of(run: RunLike) -> str:
    config = run.info.get("config") or {}
    return str(config.get("net") or config.get("name") or run.name)


def _settings(run: RunLike) -> dict[str, Any]:
    config = run.info.get("config") or {}
    return {name: value for name, value in config.items() if name not in _FREE}


def _differing(settings: list[dict[str, Any]]) -> list[str]:
    names = sorted({name for one in settings for name in one})
    return [name for name in names if len({json.dumps(one.get(name), default=str) for one in settings}) > 1]
