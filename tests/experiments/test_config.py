"""Configurations: what is refused, and that what is stored comes back the same."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import pytest

from ics.errors import SelectionError, UsageError
from ics.experiments import RunConfig

BASE = {"net": "standard", "model": "mlp", "data": "digits", "steps": 100, "learning_rate": 0.1, "batch_size": 32}


def test_comes_back_from_json_the_same() -> None:
    config = RunConfig(
        **BASE, hidden=(3, 4), layers=("linear*",), instruments={"gradient_shift": "every(10)"}, line_range=(0.25, 2.0)
    )
    assert RunConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_every_setting_is_stored() -> None:
    assert set(RunConfig(**BASE).as_dict()) == {setting.name for setting in dataclasses.fields(RunConfig)}


def test_does_not_change_with_the_callers_dict() -> None:
    instruments = {"activations": "every(5)"}
    config = RunConfig(**BASE, instruments=instruments)
    instruments["gradients"] = "every(1)"
    assert config.instruments == {"activations": "every(5)"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net", ""),
        ("data", None),
        ("steps", 0),
        ("steps", 2.5),
        ("steps", True),
        ("batch_size", 0),
        ("limit", 0),
        ("num_threads", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("evaluate_every", -1),
        ("learning_rate", float("nan")),
        ("learning_rate", -0.1),
        ("learning_rate", "0.1"),
        ("weight_decay", float("inf")),
        ("momentum", 1.0),
        ("norm", "bach"),
        ("activation", "gelu?"),
        ("init", "xavier"),
        ("loss", "mse"),
        ("optimizer", "lion"),
        ("dtype", "float16"),
        ("hidden", 64),
        ("hidden", (0,)),
        ("layers", "features.0"),
        ("line_range", (4.0, 0.5)),
        ("line_range", (0.0, 0.5)),
        ("line_points", 1),
        ("instruments", ["activations"]),
    ],
)
def test_refuses_a_setting_by_its_name(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        RunConfig(**{**BASE, name: value})
    assert "\n" not in str(caught.value)


def test_momentum_belongs_to_sgd() -> None:
    with pytest.raises(UsageError, match="type momentum=0"):
        RunConfig(**BASE, optimizer="adam", momentum=0.9)


@pytest.mark.parametrize("schedule", ["every(0)", "evry(10)", "every", "log_spaced()", ""])
def test_refuses_schedules_that_are_none(schedule: str) -> None:
    with pytest.raises(UsageError, match=r"expects|written"):
        RunConfig(**BASE, instruments={"activations": schedule})


def test_names_near_matches() -> None:
    with pytest.raises(SelectionError, match="'gradient_shift'"):
        RunConfig(**BASE, instruments={"gradient_shfit": "every(10)"})
    with pytest.raises(SelectionError, match="'learning_rate'"):
        RunConfig(**BASE).replace(learning_rat=1.0)
    with pytest.raises(SelectionError, match="'momentum'"):
        RunConfig.from_dict({**BASE, "momentm": 0.9})


def test_says_what_stored_settings_lack() -> None:
    with pytest.raises(UsageError, match="model, steps"):
        RunConfig.from_dict({name: value for name, value in BASE.items() if name not in ("model", "steps")})


def test_log_spaced_ends_with_the_training() -> None:
    config = RunConfig(**BASE, instruments={"activations": "log_spaced(3)", "gradients": "log_spaced(3, until=50)"})
    due = {name: [step for step in range(2001) if when.due(step)] for name, when in config.schedules().items()}
    assert due == {"activations": [0, 1, 10, 100], "gradients": [0, 1, 7, 50]}
    assert config.replace(steps=2000).schedules()["activations"].due(2000)


def test_etas_are_spaced_geometrically_between_multiples_of_the_learning_rate() -> None:
    etas = RunConfig(**BASE, line_range=(0.01, 30.0), line_points=5).etas()
    assert etas[0] == pytest.approx(0.001)
    assert etas[-1] == pytest.approx(3.0)
    ratios = [after / before for before, after in pairwise(etas)]
    assert ratios == pytest.approx([3000**0.25] * 4)
