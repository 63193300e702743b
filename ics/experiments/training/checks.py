"""What a `RunConfig` refuses: every setting that cannot be used gets one sentence that names it.

Settings come as a mapping from name to value and not as a `RunConfig`, because `RunConfig` imports this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ics
from ics.errors import UsageError, unknown_name
from ics.experiments.nets.activations import ACTIVATIONS
from ics.experiments.nets.initialisations import INITS
from ics.experiments.nets.norms import NORMS
from ics.experiments.training.optimizers import check_optimizer
from ics.schema import TABLES

Settings = Mapping[str, Any]

LOSSES = ("cross_entropy", "sum_squared_error")
DTYPES = ("float32", "float64")
ONE_LAYER_MODES = ("update", "sign")
INSTRUMENTS = tuple(name for name in TABLES if name in ics.INSTRUMENTS)

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


def check(settings: Settings) -> None:
    """Raise a `UsageError` for the first setting that cannot be used; schedules are checked as they are parsed."""
    _check_texts(settings)
    _check_numbers(settings)
    _check_line(settings["line_range"], settings["line_points"])
    _check_variants(settings)
    for instrument in settings["instruments"]:
        _check_instrument(str(instrument))
    preset = settings["preset"]
    if preset is not None and preset not in ics.PRESETS:
        raise unknown_name("preset", str(preset), ics.PRESETS)
    _check_options(settings["options"])
    check_optimizer(
        settings["optimizer"],
        learning_rate=settings["learning_rate"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
        settings=settings["optimizer_settings"],
    )


def as_tuple(name: str, values: object) -> tuple[Any, ...]:
    """Return a setting that is a list as a tuple, which does not change with the caller's list."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(f"{name} is a list, got {values!r}; type [{values!r}]")
    return tuple(values)


def as_mapping(name: str, values: object, *, example: str) -> dict[str, Any]:
    """Return a setting that is a mapping in the form in which it comes back from JSON, where a run stores it."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{name} is a mapping, {example}, got {values!r}")
    try:
        stored: dict[str, Any] = json.loads(json.dumps({key: _plain(value) for key, value in values.items()}))
    except TypeError as error:
        raise UsageError(f"{name} holds what JSON can store, numbers, texts and lists: {error}") from error
    return stored


def _plain(value: object) -> object:
    if isinstance(value, ics.Schedule):
        return str(value)  # a schedule prints as the text that makes it
    return dict(value) if isinstance(value, Mapping) else value


def _check_texts(settings: Settings) -> None:
    for name in ("net", "recipe", "model", "data", "device"):
        value = settings[name]
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
        if settings[name] not in tuple(allowed):
            raise unknown_name(name, str(settings[name]), allowed, limit=20)


def _check_numbers(settings: Settings) -> None:
    for name, least in _WHOLE_NUMBERS.items():
        value = settings[name]
        if value is None and name in _OPTIONAL:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise UsageError(f"{name} is a whole number of at least {least}, got {value!r}")
    for name in ("learning_rate", "momentum", "weight_decay", "dropout", "gaussian_penalty"):
        value = settings[name]
        if not _is_finite(value) or value < 0:
            raise UsageError(f"{name} is a finite number of at least 0, got {value!r}")
    for name in ("momentum", "dropout"):
        if settings[name] >= 1:
            raise UsageError(f"{name} is below 1, got {settings[name]!r}")
    budget = settings["budget"]
    if budget is not None and not (_is_finite(budget) and 0 < budget < 1):
        raise UsageError(
            f"budget expects a share of training time between 0 and 1, got {budget!r}; type budget=0.02 for 2 %"
        )
    for width in settings["hidden"]:
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise UsageError(f"hidden holds widths of at least 1, got {width!r}")


def _check_line(ends: Sequence[Any], points: object) -> None:
    if len(ends) != 2 or not all(_is_finite(end) for end in ends) or not 0 < ends[0] < ends[1]:
        raise UsageError(f"line_range is the smallest and the largest multiple, 0 < smallest < largest, got {ends!r}")
    if not isinstance(points, int) or points < 2:
        raise UsageError(f"line_points is a whole number of at least 2, got {points!r}")


def _check_variants(settings: Settings) -> None:
    for name in ("bias", "whiten_after_step"):
        if not isinstance(settings[name], bool):
            raise UsageError(f"{name} is True or False, got {settings[name]!r}")
    mode = settings["one_layer_per_step"]
    if mode is not None and mode not in ONE_LAYER_MODES:
        raise UsageError(
            f"one_layer_per_step is 'update' (one layer moves), 'sign' (one may change the sign of weights) or None, "
            f"got {mode!r}"
        )
    if settings["whiten_after_step"] and mode is not None:
        raise UsageError(
            f"whiten_after_step changes every hidden layer and one_layer_per_step={mode!r} a single one; "
            "type one of the two"
        )
    if settings["whiten_after_step"] and settings["norm"] != "none":
        raise UsageError(
            f"whiten_after_step stands in for a normalisation, got norm={settings['norm']!r} as well; type norm='none'"
        )


def _check_options(options: Mapping[str, Any]) -> None:
    for instrument, chosen in options.items():
        if not isinstance(chosen, Mapping):
            raise UsageError(
                f"options holds a mapping for each instrument, got {chosen!r} for {instrument}; "
                f'type options={{"{instrument}": {{...}}}}'
            )
        _check_instrument(str(instrument))
        taken = ics.INSTRUMENTS[instrument].options()
        for option in chosen:
            if option not in taken:
                raise unknown_name(f"option of {instrument}", str(option), taken)


def _check_instrument(name: str) -> None:
    if name not in INSTRUMENTS:
        raise unknown_name("instrument", name, INSTRUMENTS)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
