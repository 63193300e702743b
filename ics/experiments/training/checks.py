"""What a `RunConfig` refuses: every setting that cannot be used gets one sentence that names it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ics.errors import UsageError, unknown_name
from ics.experiments.nets.activations import ACTIVATIONS
from ics.experiments.nets.initialisations import INITS
from ics.experiments.nets.norms import NORMS
from ics.experiments.training.optimizers import check_optimizer
from ics.recording.budget.rule import check_target
from ics.recording.instruments import INSTRUMENTS as RECORDED
from ics.recording.instruments import check_options
from ics.recording.presets import preset_named
from ics.recording.schedule import Schedule
from ics.schema import TABLES

if TYPE_CHECKING:
    from ics.experiments.training.config import RunConfig

LOSSES = ("cross_entropy", "sum_squared_error")
DTYPES = ("float32", "float64")
ONE_LAYER_MODES = ("update", "sign")
INSTRUMENTS = tuple(name for name in TABLES if name in RECORDED)

_WHOLE_NUMBERS: Mapping[str, int] = {
    "steps": 1,
    "batch_size": 1,
    "image_size": 1,
    "limit": 1,
    "num_threads": 1,
    "seed": 0,
    "evaluate_every": 0,
}
_OPTIONAL = ("batch_size", "image_size", "limit", "num_threads")


def check(config: RunConfig) -> None:
    """Raise a `UsageError` for the first setting that cannot be used."""
    _check_texts(config)
    _check_numbers(config)
    _check_line(config)
    _check_variants(config)
    for instrument in config.instruments:
        if instrument not in INSTRUMENTS:
            raise unknown_name("instrument", str(instrument), INSTRUMENTS)
    if config.preset is not None:
        preset_named(config.preset)
    _check_options(config.options)
    check_optimizer(
        config.optimizer,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        settings=config.optimizer_settings,
    )
    config.schedules()


def as_tuple(name: str, values: object) -> tuple[Any, ...]:
    """Return a setting that is a list as a tuple, which does not change with the caller's list."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(f"{name} is a list, got {values!r}; type [{values!r}]")
    return tuple(values)


def as_mapping(name: str, values: object, *, example: str) -> dict[str, Any]:
    """Return a setting that is a mapping as it comes back from JSON, in which a run stores it."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{name} is a mapping, {example}, got {values!r}")
    try:
        stored: dict[str, Any] = json.loads(json.dumps({key: _plain(value) for key, value in values.items()}))
    except TypeError as error:
        raise UsageError(f"{name} holds what JSON can store, numbers, texts and lists: {error}") from error
    return stored


def _plain(value: object) -> object:
    if isinstance(value, Schedule):
        return str(value)
    return dict(value) if isinstance(value, Mapping) else value


def _check_texts(config: RunConfig) -> None:
    for name in ("net", "recipe", "model", "data", "device"):
        value = getattr(config, name)
        if not isinstance(value, str) or not value:
            raise UsageError(f"{name} is a text that is not empty, got {value!r}")
    choices: Mapping[str, Iterable[str]] = {
        "norm": NORMS,
        "activation": ACTIVATIONS,
        "init": INITS,
        "loss": LOSSES,
        "dtype": DTYPES,
    }
    for name, allowed in choices.items():
        if getattr(config, name) not in tuple(allowed):
            raise unknown_name(name, str(getattr(config, name)), allowed, limit=20)


def _check_numbers(config: RunConfig) -> None:
    for name, least in _WHOLE_NUMBERS.items():
        value = getattr(config, name)
        if value is None and name in _OPTIONAL:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise UsageError(f"{name} is a whole number of at least {least}, got {value!r}")
    for name in ("learning_rate", "momentum", "weight_decay", "dropout", "gaussian_penalty"):
        value = getattr(config, name)
        if not _is_finite(value) or value < 0:
            raise UsageError(f"{name} is a finite number of at least 0, got {value!r}")
    for name in ("momentum", "dropout"):
        if getattr(config, name) >= 1:
            raise UsageError(f"{name} is below 1, got {getattr(config, name)!r}")
    if config.budget is not None:
        check_target(config.budget)
    for width in config.hidden:
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise UsageError(f"hidden holds widths of at least 1, got {width!r}")


def _check_line(config: RunConfig) -> None:
    ends = config.line_range
    if len(ends) != 2 or not all(_is_finite(end) for end in ends) or not 0 < ends[0] < ends[1]:
        raise UsageError(f"line_range is the smallest and the largest multiple, 0 < smallest < largest, got {ends!r}")
    if not isinstance(config.line_points, int) or config.line_points < 2:
        raise UsageError(f"line_points is a whole number of at least 2, got {config.line_points!r}")


def _check_variants(config: RunConfig) -> None:
    for name in ("bias", "whiten_after_step"):
        if not isinstance(getattr(config, name), bool):
            raise UsageError(f"{name} is True or False, got {getattr(config, name)!r}")
    mode = config.one_layer_per_step
    if mode is not None and mode not in ONE_LAYER_MODES:
        raise UsageError(
            f"one_layer_per_step is 'update' (one layer moves), 'sign' (one may change the sign of weights) or None, "
            f"got {mode!r}"
        )
    if config.whiten_after_step and mode is not None:
        raise UsageError(
            f"whiten_after_step changes every hidden layer and one_layer_per_step={mode!r} a single one; "
            "type one of the two"
        )
    if config.whiten_after_step and config.norm != "none":
        raise UsageError(
            f"whiten_after_step stands in for a normalisation, got norm={config.norm!r} as well; type norm='none'"
        )


def _check_options(options: Mapping[str, Any]) -> None:
    for instrument, chosen in options.items():
        if not isinstance(chosen, Mapping):
            raise UsageError(
                f"options holds a mapping for each instrument, got {chosen!r} for {instrument}; "
                f'type options={{"{instrument}": {{...}}}}'
            )
    check_options(options)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
