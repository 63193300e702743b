"""Configurations as jobs: each has a folder named after its settings, so that the same sweep finds its own runs."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import ics
from ics.errors import IcsError, UsageError
from ics.experiments.sweep.jobs import Job, own_progress
from ics.experiments.training.config import RunConfig
from ics.experiments.training.train import train

_DIGITS = 8


def jobs_of(configs: Iterable[RunConfig], folder: str | Path, *, overwrite: bool = False) -> list[Job]:
    """Return a job for each configuration, whose run goes to `folder / folder_name(config)`.

    A completed run with an equal configuration is reused, one that was interrupted is replaced. Configurations that are
    equal become one job.

    Args:
        configs: what to train.
        folder: of the runs; made absolute, since workers may stand elsewhere.
        overwrite: replace whatever runs are there; goes with `run_jobs(..., reuse=False)`.
    """
    base = Path(folder).expanduser().absolute()
    unique = {folder_name(config): config for config in configs}
    return [job_of(config, base / name, overwrite=overwrite) for name, config in unique.items()]


def job_of(config: RunConfig, to: Path, *, overwrite: bool = False) -> Job:
    """Return the job of training `config` into the folder `to`; `overwrite` replaces whatever run is there.

    Without it, a completed run of `config` is left alone and an interrupted one replaced; a run of another
    configuration fails the job.
    """
    return Job(
        name=to.name,
        to=to,
        run=functools.partial(_train, config, to, overwrite),
        is_done=functools.partial(holds, to, config),
        threads=config.num_threads,
        gpus=int(_wants_gpu(config.device)),
    )


def folder_name(config: RunConfig) -> str:
    """Return NET-HASH-SEED; runs that differ in their seed alone share NET-HASH, so `"runs/NET-HASH-*"` opens them.

    The hash is of the settings that are not their defaults, so it outlives settings that are added to `RunConfig`.

    Example:
        >>> config = RunConfig(net="BN, lr 0.5", model="mlp", data="digits", steps=9, learning_rate=0.5, batch_size=32)
        >>> folder_name(config), folder_name(config.replace(seed=3))
        ('BN-lr-0.5-10bbea46-0', 'BN-lr-0.5-10bbea46-3')
    """
    digest = hashlib.sha256(_canonical(config.replace(seed=0)).encode()).hexdigest()[:_DIGITS]
    label = re.sub(r"[^\w.=+]+", "-", config.net).strip("-.") or "net"
    return f"{label}-{digest}-{config.seed}"


def holds(folder: Path, config: RunConfig) -> bool:
    """Whether there is a completed run of exactly this configuration in `folder`."""
    there, state = _stored(folder)
    return state == "completed" and there == _canonical(config)


def _train(config: RunConfig, to: Path, overwrite: bool) -> None:
    there, state = _stored(to)
    if not overwrite and there == _canonical(config) and state == "completed":
        return  # a worker may die between the end of its run and its report
    if not overwrite and there not in (None, _canonical(config)):
        raise UsageError(f"{to} holds a run of another configuration; choose another folder, or remove it")
    # Unless asked for, all that is left to overwrite here is a broken run of this very configuration.
    train(config, to=to, overwrite=True, progress=own_progress())


def _stored(folder: Path) -> tuple[str | None, str]:
    """The configuration (canonical) and state of the run in `folder`; None where there is none that can be read."""
    try:
        run = ics.open_run(folder)
        return _canonical(RunConfig.from_dict(run.info["config"])), run.state
    except (IcsError, KeyError, TypeError):
        return None, ""


def _wants_gpu(device: str) -> bool:
    import torch

    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _canonical(config: RunConfig) -> str:
    """Return the same text for equal configurations: without defaults, however lists and numbers are written."""
    settings = {name: value for name, value in config.as_dict().items() if not _is_default(name, value)}
    return json.dumps(_plain(settings), sort_keys=True, default=str)


def _is_default(name: str, value: Any) -> bool:
    return name in _DEFAULTS and _DEFAULTS[name] == value


def _plain(value: Any) -> Any:
    """Give equal numbers the same text: a learning rate of 1 is the same as 1.0."""
    match value:
        case bool():
            return value
        case int():
            return float(value)
        case dict():
            return {key: _plain(cell) for key, cell in value.items()}
        case list() | tuple():
            return [_plain(cell) for cell in value]
    return value


def _defaults() -> dict[str, Any]:
    """What `as_dict` says of the settings that have a default."""
    found = {}
    for setting in fields(RunConfig):
        value = setting.default_factory() if setting.default_factory is not MISSING else setting.default
        if value is not MISSING:
            found[setting.name] = list(value) if isinstance(value, tuple) else value
    return found


_DEFAULTS = _defaults()
