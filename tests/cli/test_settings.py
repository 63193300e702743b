"""The little languages of --set, --sweep and --seeds."""

from __future__ import annotations

from typing import Any

import pytest

from ics.cli.settings import parse_grid, parse_seeds, parse_settings
from ics.errors import UsageError


@pytest.mark.parametrize(
    ("text", "setting", "value"),
    [
        ("lr=1", "learning_rate", 1.0),
        ("batch-size=none", "batch_size", None),
        ("batch_size=64", "batch_size", 64),
        ("norm=none", "norm", "none"),
        ("hidden=64x32", "hidden", [64, 32]),
        ("hidden=[64,32]", "hidden", [64, 32]),
        ("hidden=7", "hidden", [7]),
        ("line_range=0.5x4", "line_range", [0.5, 4.0]),
        ("layers=features.*", "layers", ["features.*"]),
        ("layers=none", "layers", None),
        ('instruments={"gradients": "every(5)"}', "instruments", {"gradients": "every(5)"}),
        ("data=images:a=b", "data", "images:a=b"),
    ],
)
def test_a_value_is_typed_as_its_setting(text: str, setting: str, value: Any) -> None:
    (found,) = parse_settings([text]).items()
    assert found == (setting, value)
    assert type(found[1]) is type(value)


def test_a_grid_holds_every_combination_in_the_order_given() -> None:
    points = parse_grid(["lr=0.1,0.5", "hidden=[4,4],[8]"])
    assert [[value for _, value in point.values()] for point in points] == [
        [0.1, [4, 4]],
        [0.1, [8]],
        [0.5, [4, 4]],
        [0.5, [8]],
    ]
    assert points[0]["hidden"][0] == "hidden=[4,4]"


def test_a_setting_named_twice_is_one_axis() -> None:
    assert [point["learning_rate"][1] for point in parse_grid(["lr=0.1", "learning_rate=0.2,0.3"])] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("text", "first", "seeds"),
    [("3", 0, [0, 1, 2]), ("2", 5, [5, 6]), ("4,1", 0, [4, 1]), ("2,", 0, [2]), ("1..1", 0, [1])],
)
def test_seeds_are_counted_listed_or_a_range(text: str, first: int, seeds: list[int]) -> None:
    assert parse_seeds(text, first=first) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "..3", "3..", "3..1", "1,1", "a..b", "1,a"])
def test_what_are_no_seeds_is_a_mistake(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["lr", "lr=", "=0.1", "lr=0.1,", "steps=1e3", "hidden=axb", "instruments=[1]"])
def test_what_is_no_setting_is_a_mistake(text: str) -> None:
    with pytest.raises(UsageError):
        parse_grid([text])
