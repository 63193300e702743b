"""Studies: measurements that the tables of a training do not hold, as values to be stored, reused and run anywhere.

A study is a function of settings and a seed that returns a tidy frame. Its folder holds `study.json` (what was run,
with which versions, how it ended) and `table.parquet`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ics.claims.method.stored_results import digest, slug, versions
from ics.errors import NotARunError, UsageError
from ics.ledger.files import read_json, write_json, write_whole

STUDY_FILE, TABLE_FILE = "study.json", "table.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A measurement by a function of its own.

    Attributes:
        name: its name in the evidence.
        function: `"package.module:function"`, called as `function(seed=..., **settings, **local)`; returns a frame.
        settings: its keyword arguments, plain JSON values.
        seed: of everything random in it.
        revision: raised when the function changes what it measures, so that stored results are computed again.
        local: further arguments that do not affect the result, such as the location of the data on this machine. They
            are not stored, and they are no part of the identity of the study.

    Example:
        >>> study = Study(name="growth", function="my_studies:growth", settings={"depth": 4})
        >>> study.folder_name == study.with_seed(0).folder_name
        True
    """

    name: str
    function: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seed: int = 0
    revision: int = 1
    local: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self) -> None:
        if ":" not in self.function:
            raise UsageError(f"the function of a study is package.module:function, got {self.function!r}")
        # As JSON gives them back: tuples become lists, so that a stored study equals the one it was made from.
        object.__setattr__(self, "settings", json.loads(json.dumps(dict(self.settings))))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, without name and seed."""
        return {"function": self.function, "settings": dict(self.settings), "revision": self.revision}

    @property
    def folder_name(self) -> str:
        """The folder's name: equal studies share it."""
        return f"{slug(self.function.partition(':')[2])}-{digest(self.identity)}-{self.seed}"

    def with_seed(self, seed: int) -> Study:
        """Return the study for another seed."""
        return replace(self, seed=seed)


def run_study(study: Study, to: Path) -> None:
    """Run a study and write its folder. The table is either complete or absent."""
    started = datetime.now(UTC)
    frame = find_function(study.function)(seed=study.seed, **study.settings, **study.local)
    if not isinstance(frame, pd.DataFrame) or frame.empty:
        raise UsageError(f"{study.function} should return a frame with rows, got {type(frame).__name__}")
    to.mkdir(parents=True, exist_ok=True)
    write_whole(to / TABLE_FILE, lambda path: frame.to_parquet(path, index=False))
    info = {"study": study.identity | {"seed": study.seed}, "versions": versions()}
    write_json(to / STUDY_FILE, info | {"started": started.isoformat(), "ended": datetime.now(UTC).isoformat()})


def is_study_done(study: Study, to: Path) -> bool:
    """Whether the folder holds the finished result of this very study."""
    try:
        info = read_json(to / STUDY_FILE)
    except (OSError, ValueError):
        return False
    # The table is written first: a study.json without it is that of a folder that somebody cleaned up.
    return info.get("study") == study.identity | {"seed": study.seed} and (to / TABLE_FILE).is_file()


def read_study(to: Path) -> pd.DataFrame:
    """Return the table of a study."""
    try:
        return pd.read_parquet(to / TABLE_FILE)
    except OSError as error:
        raise NotARunError(f"expected the result of a study in {to}, got none ({error}); run the claim again") from None


def find_function(name: str) -> Any:
    """Return the function called `package.module:function`."""
    # By name and not as an object, so that a study can be stored as JSON and sent to any worker.
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"there is no function {name!r} for a study: {error}") from error
