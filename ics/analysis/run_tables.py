"""Tables of several runs for comparisons: None where nothing was recorded, and one configuration per net."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import commonpath
from typing import Any

import pandas as pd

from ics.analysis.frames import spread_out
from ics.errors import UsageError
from ics.store import Run, Runs, Where

# Settings that may differ between runs that count as seeds of one net: what is measured and where, not what is trained.
_FREE = {"net", "name", "recipe", "seed", "device", "data_root"}
_FREE |= {"instruments", "layers", "evaluate_every", "line_points", "preset", "budget"}


@dataclass(frozen=True)
class Named:
    """An opened run with its labels in frames: `name` (column run), `net` and `seed`."""

    run: Run
    name: str
    net: str
    seed: int | None


def as_runs(runs: Run | Iterable[Run]) -> Runs:
    """Return one run or several as `Runs`; raises `UsageError` if there is none."""
    several = Runs([runs] if isinstance(runs, Run) else runs)
    if not len(several) or not all(isinstance(run, Run) for run in several):
        raise UsageError('expected one opened run or more; type runs = ics.open_runs("runs/*")')
    return several


def named(runs: Runs) -> list[Named]:
    """Return the runs with their names.

    The net is the configured `net` (or `name`, or the run's name). Where runs of one net were configured differently
    (another learning rate, say), the settings that differ are added: their envelope would be no band over seeds.
    """
    names = _names(runs)
    nets = [_net_of(run, name) for run, name in zip(runs, names, strict=True)]
    result = []
    for run, name, net in zip(runs, names, nets, strict=True):
        members = [_settings(other) for other, its_net in zip(runs, nets, strict=True) if its_net == net]
        parts = [f"{setting} {_settings(run).get(setting)}" for setting in _differing(members)]
        result.append(Named(run, name, ", ".join([net, *parts]), _seed_of(run)))
    return result


def nets_of(runs: Runs) -> dict[str, Runs]:
    """Return net to its runs, in the order in which the nets first appear."""
    groups: dict[str, list[Run]] = {}
    for one in named(runs):
        groups.setdefault(one.net, []).append(one.run)
    return {net: Runs(members) for net, members in groups.items()}


def read(
    runs: Runs, table: str, *, columns: Sequence[str] | None = None, where: Where | None = None
) -> pd.DataFrame | None:
    """Return the rows of a table of all runs, `run`, `net` and `seed` in front; None where no run has any.

    Differs from `Runs.table` in the net, which is that of `named`: runs of different configurations are never taken
    for seeds of one net.
    """
    frame = runs.table(table, columns=columns, where=where)
    if frame.empty:
        return None
    return frame.assign(net=frame["run"].map({one.name: one.net for one in named(runs)}))


def read_steps(
    runs: Runs, table: str, *, columns: Sequence[str], where: dict[str, Any], limit: int
) -> pd.DataFrame | None:
    """Return the rows of at most `limit` steps per run, evenly chosen with the first and the last; None without any.

    Only these rows are read, because the histograms of all steps would fill the memory.
    """
    measured = runs.table(table, columns=["step"], where=where)
    labels = {one.name: one.net for one in named(runs)}
    frames = []
    for run, of_run in measured.groupby("run", sort=False):
        steps = sorted(of_run["step"].unique().tolist())
        chosen = [steps[position] for position in spread_out(len(steps), limit)]
        frames.append(runs.table(table, columns=columns, where={**where, "run": run, "step": chosen}))
    if not frames:
        return None
    rows = pd.concat(frames, ignore_index=True)
    return rows.assign(net=rows["run"].map(labels))


def _names(runs: Runs) -> list[str]:
    """Return what `Runs.table` calls the runs: their names, or where these occur twice their paths."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    paths = [run.path.resolve() for run in runs]
    return [path.relative_to(commonpath(paths)).as_posix() for path in paths]


def _seed_of(run: Run) -> int | None:
    seed = (run.info.get("config") or {}).get("seed", run.info.get("seed"))
    return seed if isinstance(seed, int) else None


def _net_of(run: Run, name: str) -> str:
    config = run.info.get("config") or {}
    return str(config.get("net") or config.get("name") or name)


def _settings(run: Run) -> dict[str, Any]:
    config = run.info.get("config") or {}
    return {name: value for name, value in config.items() if name not in _FREE}


def _differing(settings: list[dict[str, Any]]) -> list[str]:
    names = sorted({name for one in settings for name in one})
    return [name for name in names if len({json.dumps(one.get(name), default=str) for one in settings}) > 1]
