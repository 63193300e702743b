"""Measure internal covariate shift and the optimisation landscape of any PyTorch model while it trains.

Names are loaded when they are first used, so that reading, analysing and drawing runs never imports torch, and
`import ics` itself imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    # attach to a training loop
    "Recorder": "ics.recording",
    "every": "ics.recording",
    "log_spaced": "ics.recording",
    "at": "ics.recording",
    # what a recorder can be asked for, to check settings before a training starts
    "INSTRUMENTS": "ics.recording.instruments",
    "PRESETS": "ics.recording.presets",
    "Schedule": "ics.recording",
    "parse_schedule": "ics.recording",
    # measure once
    "gradient_shift": "ics.recording",
    "gradient_line": "ics.recording",
    "activation_stats": "ics.recording",
    "sharpness": "ics.recording",
    "attribution": "ics.recording",
    "loss_slice": "ics.recording",
    # measure what is your own
    "Instrument": "ics.recording",
    "statistic": "ics.recording",
    "Block": "ics.records",
    "Table": "ics.columns",
    "Column": "ics.columns",
    # read
    "open_run": "ics.store",
    "open_runs": "ics.store",
    # errors to catch
    "IcsError": "ics.errors",
    "UsageError": "ics.errors",
    "MeasurementWarning": "ics.errors",
}
_PACKAGES = ("analysis", "plots", "schema")

__all__ = [*_HOME, *_PACKAGES, "__version__"]

if TYPE_CHECKING:
    from ics import analysis as analysis
    from ics import plots as plots
    from ics import schema as schema
    from ics.columns import Column as Column
    from ics.columns import Table as Table
    from ics.errors import IcsError as IcsError
    from ics.errors import MeasurementWarning as MeasurementWarning
    from ics.errors import UsageError as UsageError
    from ics.recording import Instrument as Instrument
    from ics.recording import Recorder as Recorder
    from ics.recording import Schedule as Schedule
    from ics.recording import activation_stats as activation_stats
    from ics.recording import at as at
    from ics.recording import attribution as attribution
    from ics.recording import every as every
    from ics.recording import gradient_line as gradient_line
    from ics.recording import gradient_shift as gradient_shift
    from ics.recording import log_spaced as log_spaced
    from ics.recording import loss_slice as loss_slice
    from ics.recording import parse_schedule as parse_schedule
    from ics.recording import sharpness as sharpness
    from ics.recording import statistic as statistic
    from ics.recording.instruments import INSTRUMENTS as INSTRUMENTS
    from ics.recording.presets import PRESETS as PRESETS
    from ics.records import Block as Block
    from ics.store import open_run as open_run
    from ics.store import open_runs as open_runs


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"ics.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'ics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
