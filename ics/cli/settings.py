"""Parses `--set NAME=VALUE`, `--sweep NAME=VALUE,VALUE` and `--seeds` into settings of a run, each of its own type."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

from ics.errors import UsageError, unknown_name

SHORT: Mapping[str, str] = {"lr": "learning_rate"}
"""Short names of settings, as the options of `ics train` have them."""

_OPENING, _CLOSING = "[{(", "]})"
_TRUTH = {"true": True, "false": False, "yes": True, "no": False}
_EXAMPLES = {int: "100", float: "0.1", bool: "true", list: "[64,64]", dict: '{"name": "value"}'}


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Return a mapping of settings to values for texts like `momentum=0.9`.

    Example:
        >>> parse_settings(["momentum=0.9", "hidden=32x32", "batch-size=none"])
        {'momentum': 0.9, 'hidden': [32, 32], 'batch_size': None}
    """
    pairs = [_named_text("--set", text) for text in texts]
    return {setting: _typed(setting, value) for _, setting, value in pairs}


def parse_grid(texts: Iterable[str]) -> list[dict[str, tuple[str, Any]]]:
    """Return the points of a grid: setting to (the user's text, value); the last setting varies fastest.

    Args:
        texts: like `lr=0.1,0.5`; commas inside brackets belong to a value, as in `hidden=[64,64],[32,32,32]`.

    Example:
        >>> [{name: value for name, (_, value) in point.items()} for point in parse_grid(["lr=0.1,0.5", "norm=batch"])]
        [{'learning_rate': 0.1, 'norm': 'batch'}, {'learning_rate': 0.5, 'norm': 'batch'}]
        >>> parse_grid([])
        [{}]
    """
    axes: dict[str, list[tuple[str, Any]]] = {}
    for text in texts:
        name, setting, values = _named_text("--sweep", text)
        if setting == "seed":
            raise UsageError(f"seeds are swept by --seeds, got --sweep {text}; type e.g. --seeds 0,1,2")
        axis = [(f"{name}={value}", _typed(setting, value)) for value in _split(values)]
        seen = [value for _, value in axes.setdefault(setting, [])]
        axes[setting] += axis
        if any(value in [*seen, *(other for _, other in axis[:number])] for number, (_, value) in enumerate(axis)):
            raise UsageError(f"--sweep names each value of {name} once, got {text}; leave the second out")
    return [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]


def parse_seeds(text: str, *, first: int = 0) -> list[int]:
    """Return the seeds: `5` means five seeds starting at `first`, `0,1,4` these seeds, `3..6` those from 3 to 6.

    Example:
        >>> parse_seeds("3", first=7), parse_seeds("0,4"), parse_seeds("3..6")
        ([7, 8, 9], [0, 4], [3, 4, 5, 6])
    """
    low, dots, high = text.partition("..")
    parts = [part.strip() for part in ((low, high) if dots else text.split(",")) if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts) or (dots and len(parts) != 2):
        raise UsageError(
            f"--seeds is a number of seeds, a list or a range, got {text!r}; type --seeds 5, 0,1,2 or 0..4"
        )
    numbers = [int(part) for part in parts]
    if not dots and "," not in text:
        if numbers[0] < 1:
            raise UsageError(f"--seeds is at least 1, got {numbers[0]}")
        return list(range(first, first + numbers[0]))
    if first:
        raise UsageError(f"--seeds {text} names the seeds itself; leave --seed {first} out")
    seeds = list(range(numbers[0], numbers[1] + 1)) if dots else numbers
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds names each seed once, the lowest first in a range, got {text!r}; type e.g. 0..4")
    return seeds


def _named_text(option: str, text: str) -> tuple[str, str, str]:
    """Return (name as typed, setting, text of the values)."""
    name, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not name or not values:
        raise UsageError(f"{option} takes a setting, = and what it is to be, got {text!r}; type e.g. {option} lr=0.1")
    setting = SHORT.get(name, name.replace("-", "_"))
    if setting not in _kinds():
        raise unknown_name("setting", name, [*_kinds(), *SHORT])
    return name, setting, values


def _kinds() -> dict[str, Any]:
    from ics.experiments import RunConfig

    # Evaluated: with postponed annotations the types of a dataclass's fields are only text.
    return typing.get_type_hints(RunConfig)


def _split(text: str) -> Iterator[str]:
    """Yield the parts between commas that are outside of brackets."""
    depth, part = 0, ""
    for letter in text:
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += letter
    yield part.strip()


def _typed(setting: str, text: str) -> Any:
    kind = _kinds()[setting]
    members = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if types.NoneType in members and text.lower() in ("none", "null"):
        return None
    (wanted,) = (member for member in members if member is not types.NoneType)
    try:
        return _value(wanted, text)
    except (ValueError, KeyError):
        shape = _shape(wanted)
        raise UsageError(
            f"{setting} is {_article(shape)}, got {text!r}; type e.g. {setting}={_EXAMPLES.get(shape, 'name')}"
        ) from None


def _value(wanted: Any, text: str) -> Any:
    shape = _shape(wanted)
    if shape is str:
        return text
    if shape is bool:
        return _TRUTH[text.lower()]
    if shape in (int, float):
        return shape(text)
    if shape is list and not text.startswith("["):
        member = typing.get_args(wanted)[0]
        return [member(part) for part in text.split("x")] if member in (int, float) else [text]
    value = json.loads(text)
    if not isinstance(value, shape):
        raise ValueError(text)
    return value


def _shape(wanted: Any) -> Any:
    """Return the kind of value that a text becomes: str, bool, int, float, list or dict."""
    origin = typing.get_origin(wanted)
    return wanted if origin is None else (list if origin is tuple else dict)


def _article(shape: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a JSON object"}
    return names.get(shape, "a text")
