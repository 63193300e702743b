"""Configurations: what is refused, and that what is stored comes back the same."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import pytest

import ics
from ics.errors import SelectionError, UsageError
from ics.experiments import RunConfig, recipe

BASE = {"net": "standard", "model": "mlp", "data": "digits", "steps": 100, "learning_rate": 0.1, "batch_size": 32}


def test_comes_back_from_json_the_same() -> None:
    config = RunConfig(
        **BASE,
        hidden=(3, 4),
        layers=("linear*",),
        instruments={"gradient_shift": "every(10)"},
        line_range=(0.25, 2.0),
        optimizer="AdamW",
        optimizer_settings={"betas": (0.8, 0.9)},
        options={"gradient_line": {"directions": ("gradient", "random"), "num_random": 2}},
    )
    assert RunConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_every_setting_is_stored() -> None:
    assert set(RunConfig(**BASE).as_dict()) == {setting.name for setting in dataclasses.fields(RunConfig)}


def test_does_not_change_with_the_callers_dict() -> None:
    instruments = {"activations": "every(5)"}
    config = RunConfig(**BASE, instruments=instruments)
    instruments["gradients"] = "every(1)"
    assert config.instruments == {"activations": "every(5)"}
    settings = {"betas": [0.8, 0.9]}
    config = RunConfig(**BASE, optimizer="adam", optimizer_settings=settings)
    settings["betas"][0] = 0.1
    config.as_dict()["optimizer_settings"]["betas"][0] = 0.2
    assert config.optimizer_settings == {"betas": [0.8, 0.9]}


def test_a_configuration_stored_before_there_were_variants_means_what_it_meant() -> None:
    stored = {
        "net": "BatchNorm",
        "model": "mlp",
        "data": "digits",
        "steps": 400,
        "learning_rate": 0.1,
        "batch_size": 128,
        "recipe": "digits-mlp",
        "norm": "batch",
        "activation": "relu",
        "hidden": [64, 64, 64],
        "init": "default",
        "data_root": None,
        "image_size": None,
        "limit": None,
        "loss": "cross_entropy",
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "seed": 0,
        "instruments": {
            "activations": "every(10)",
            "gradients": "every(10)",
            "normalization": "every(10)",
            "gradient_shift": "every(10)",
            "gradient_line": "every(20)",
        },
        "preset": None,
        "budget": None,
        "line_range": [0.5, 4.0],
        "line_points": 8,
        "layers": None,
        "evaluate_every": 20,
        "device": "cpu",
        "dtype": "float32",
        "num_threads": 1,
    }
    config = RunConfig.from_dict(stored)
    assert config == recipe("digits-mlp", norm="batch")
    added = {name: value for name, value in config.as_dict().items() if name not in stored}
    assert added == {
        "bias": True,
        "dropout": 0.0,
        "gaussian_penalty": 0.0,
        "optimizer_settings": {},
        "whiten_after_step": False,
        "one_layer_per_step": None,
        "options": {},
    }


def test_names_of_optimizers_are_stored_in_one_spelling() -> None:
    assert RunConfig(**BASE, optimizer="AdamW") == RunConfig(**BASE, optimizer="adamw")
    assert RunConfig(**BASE, optimizer="SGD").as_dict()["optimizer"] == "sgd"


def test_schedules_may_be_given_as_values() -> None:
    config = RunConfig(**BASE, instruments={"activations": ics.every(5), "gradients": 3})
    assert config.instruments == {"activations": "every(5)", "gradients": 3}
    assert [name for name, when in config.schedules().items() if when.due(15)] == ["activations", "gradients"]


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
        ("optimizer", None),
        ("optimizer", "LBFGS"),
        ("optimizer_settings", {"lr": 0.1}),
        ("optimizer_settings", {"betas": [0.9, 0.99]}),  # sgd has none
        ("optimizer_settings", "nesterov"),
        ("optimizer_settings", {"nesterov": object()}),
        ("bias", 1),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("gaussian_penalty", -1.0),
        ("gaussian_penalty", float("inf")),
        ("whiten_after_step", "yes"),
        ("one_layer_per_step", True),
        ("one_layer_per_step", "signs"),
        ("options", {"gradient_line": 3}),
        ("options", []),
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


def test_momentum_belongs_to_optimizers_that_have_one() -> None:
    with pytest.raises(UsageError, match="type momentum=0"):
        RunConfig(**BASE, optimizer="adam", momentum=0.9)
    assert RunConfig(**BASE, optimizer="rmsprop", momentum=0.9).momentum == 0.9


def test_variants_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="type one of the two"):
        RunConfig(**BASE, whiten_after_step=True, one_layer_per_step="sign")
    with pytest.raises(UsageError, match="type norm='none'"):
        RunConfig(**BASE, whiten_after_step=True, norm="batch")


@pytest.mark.parametrize("schedule", ["every(0)", "evry(10)", "every", "log_spaced()", ""])
def test_refuses_schedules_that_are_none(schedule: str) -> None:
    with pytest.raises(UsageError, match=r"expects|written"):
        RunConfig(**BASE, instruments={"activations": schedule})


def test_names_near_matches() -> None:
    with pytest.raises(SelectionError, match="'gradient_shift'"):
        RunConfig(**BASE, instruments={"gradient_shfit": "every(10)"})
    with pytest.raises(SelectionError, match="'etas'"):
        RunConfig(**BASE, options={"gradient_line": {"etta": [0.1]}})
    with pytest.raises(SelectionError, match="no optimizer is named 'lion'"):
        RunConfig(**BASE, optimizer="lion")
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
