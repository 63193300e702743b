"""Claims as plain values and texts for the ledger: effects with their votes, and the settings of nets and studies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from ics.claims.method.rules import Verdict, Vote
from ics.experiments.training.config import RunConfig

_DEFAULTS: Mapping[str, Any] = {one.name: one.default for one in fields(RunConfig) if one.default is not MISSING}
_TOLD = frozenset(
    (
        *("net", "recipe", "model", "data", "norm", "hidden", "steps", "batch_size", "learning_rate"),
        *("seed", "data_root", "device", "num_threads", "evaluate_every"),
        *("instruments", "options", "preset", "budget", "layers", "line_range", "line_points"),
    )
)
"""Settings that a line about a net has anyway, or leaves out because they decide what is measured and where."""


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


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return the settings of a net in one line for readers: the usual ones, then all others that are not the default.

    What is measured and where it runs is left out. Missing settings have their defaults.

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
    """Return a study in one line for readers; trainings among its settings are described like nets.

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
