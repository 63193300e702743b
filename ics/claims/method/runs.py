"""The trainings of claims on disk: the folder of a configuration, whether its run is done, and its tables as evidence.

    claims/
      runs/mlp-digits-batch-1a2b3c4d-0/       a run folder: model, data, norm, digest of all settings, seed
      studies/growth-5e6f7a8b-0/              study.json and table.parquet
      ledger/quick/C07.json, C07.parquet      what was found

Two claims that ask for the same settings share the run, whatever they call the net: that is why folders are named by a
digest of the settings and not by the net.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from ics.analysis import IDENTITY
from ics.claims.method.evidence import Reader, Where
from ics.claims.method.stored_results import digest, slug
from ics.errors import IcsError, UsageError
from ics.experiments.sweep.jobs import own_progress
from ics.experiments.training.config import RunConfig
from ics.experiments.training.train import train
from ics.store import Run, Runs, open_run

_IMAGES = "images:"
_NAMES = ("net", "recipe", "seed", "data_root")


def identity(config: RunConfig) -> dict[str, Any]:
    """Return the settings that decide what a run is: all except its names, its seed and the location of the data."""
    settings = {name: value for name, value in config.as_dict().items() if name not in _NAMES}
    return settings | {"data": data_name(config)}


def changed(config: RunConfig) -> dict[str, Any]:
    """Return the settings of `identity` that are not the defaults, so that a new setting renames no stored run."""
    plain = {setting.name: _default(setting) for setting in fields(RunConfig)}
    return {name: value for name, value in identity(config).items() if value != plain[name]}


def data_name(config: RunConfig) -> str:
    """Return the data without the path to it: an archive is the same on another machine."""
    if not config.data.startswith(_IMAGES):
        return config.data
    return _IMAGES + Path(config.data.removeprefix(_IMAGES)).name


def run_folder(root: Path, config: RunConfig) -> Path:
    """Return where the run of a configuration lies."""
    # The readable part is for people; only the digest tells configurations apart.
    data = data_name(config).removeprefix(_IMAGES).partition(".")[0]
    name = f"{config.model.rpartition(':')[2]}-{data}-{config.norm}"
    return root / "runs" / f"{slug(name)}-{digest(changed(config))}-{config.seed}"


def is_run_done(config: RunConfig, to: Path) -> bool:
    """Whether the folder holds the completed run of these very settings."""
    try:
        run = open_run(to)
        stored = RunConfig.from_dict(run.info.get("config") or {})
    except (IcsError, TypeError):
        return False
    # Read back through RunConfig: settings that did not exist when the run was made have their defaults.
    return run.state == "completed" and stored.seed == config.seed and identity(stored) == identity(config)


def make_run(config: RunConfig, to: Path) -> None:
    """Train, in place of whatever an interrupted attempt left."""
    shutil.rmtree(to, ignore_errors=True)  # a recorder refuses a folder that holds a run, even a broken one
    train(config, to=to, progress=own_progress())


def check_names(configs: Sequence[RunConfig]) -> None:
    """Check that every net of a claim has a name of its own.

    Raises:
        UsageError: two different configurations have one name, so that their runs would be taken for seeds of one net.
    """
    names = [config.net for config in configs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two nets of a claim are called {twice!r}; give them names: base(budget, net='...', ...)")


def reader_of(runs: Mapping[str, Sequence[Run]]) -> Reader:
    """Return a reader of the tables of all runs, `net` being the claim's own name for them."""

    def read(table: str, columns: Sequence[str] | None, where: Where) -> pd.DataFrame:
        others = {name: value for name, value in where.items() if name != "net"}
        wanted = where.get("net", list(runs))
        nets = [wanted] if isinstance(wanted, str) else list(wanted)
        # Net by net: what only one of them logged must not stop the others from being read.
        frames = [_rows(runs[net], net, table, columns, others) for net in nets if runs.get(net)]
        filled = [frame for frame in frames if not frame.empty]
        return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()

    return read


def _rows(runs: Sequence[Run], net: str, table: str, columns: Sequence[str] | None, where: Where) -> pd.DataFrame:
    with_table = [run for run in runs if table in run.tables]
    if not with_table:
        return pd.DataFrame()
    # What a loop logs differs from net to net: of the narrow table that holds it, columns are chosen after reading.
    is_logged = table == "steps" and columns is not None
    rows = Runs(with_table).table(table, columns=None if is_logged else columns, where=where)
    if is_logged:
        rows = rows[[name for name in rows.columns if name in (*IDENTITY, *(columns or ()))]]
    return rows.assign(net=net)


def _default(setting: Field[Any]) -> Any:
    value = setting.default if setting.default_factory is MISSING else setting.default_factory()
    return list(value) if isinstance(value, tuple) else value
