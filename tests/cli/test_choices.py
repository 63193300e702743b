"""The little languages of --where, --columns, --every and --input-shape."""

from __future__ import annotations

from typing import Any

import pytest

from ics.cli.choices import parse_columns, parse_every, parse_shape, parse_where
from ics.errors import SelectionError, UsageError
from ics.schema import table_named

RECIPE = {"activations": "every(10)", "gradient_line": "log_spaced(40)"}


@pytest.mark.parametrize(
    ("table", "text", "expected"),
    [
        ("gradient_shift", "step>=100", ("step", ">=", 100)),
        ("gradient_shift", "step = 3", ("step", "=", 3)),
        ("gradient_shift", "shift_cosine<-0.5", ("shift_cosine", "<", -0.5)),
        ("gradient_shift", "layer != features.0", ("layer", "!=", "features.0")),
        ("gradient_shift", "step in 0, 10,20", ("step", "in", [0, 10, 20])),
        ("activations", "site in input,scaled", ("site", "in", ["input", "scaled"])),
        ("activations", "layer=in between", ("layer", "=", "in between")),
        ("steps", "measured=true", ("measured", "=", True)),
        ("steps", "test_accuracy>0.9", ("test_accuracy", ">", 0.9)),
    ],
)
def test_conditions_are_typed_as_the_schema_says(table: str, text: str, expected: tuple[str, str, Any]) -> None:
    (condition,) = parse_where(table_named(table), [text])
    assert condition == expected
    assert type(condition[2]) is type(expected[2])


@pytest.mark.parametrize(
    ("table", "text", "part"),
    [
        ("gradient_shift", "step", "type e.g. 'step>=100'"),
        ("gradient_shift", "step>=", "type e.g. 'step>=100'"),
        ("gradient_shift", "step>=many", "step of gradient_shift holds int64 values, got 'many'"),
        ("gradient_shift", "step=1.5", "holds int64 values"),
        ("steps", "measured=maybe", "holds bool values, got 'maybe'"),
        ("activations", "histogram=1", "holds lists"),
    ],
)
def test_a_condition_that_cannot_be_meant_is_a_mistake(table: str, text: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_where(table_named(table), [text])
    assert part in str(caught.value)


def test_an_unknown_column_is_named_with_its_neighbours() -> None:
    with pytest.raises(SelectionError, match="did you mean 'shift_cosine'"):
        parse_where(table_named("gradient_shift"), ["shift_cosin>0"])


def test_columns_are_split_at_commas() -> None:
    assert parse_columns("step, layer,shift_cosine,") == ["step", "layer", "shift_cosine"]
    assert parse_columns(None) is None


@pytest.mark.parametrize("text", ["3,32,32", "3x32x32", " 3 32 32 "])
def test_a_shape_may_be_written_in_several_ways(text: str) -> None:
    assert parse_shape(text) == (3, 32, 32)


@pytest.mark.parametrize("text", ["", "3,0,32", "3,-1", "3;32", "a"])
def test_what_is_no_shape_is_a_mistake(text: str) -> None:
    with pytest.raises(UsageError, match="--input-shape 3,32,32"):
        parse_shape(text)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], RECIPE),
        (["50"], {"activations": "every(50)", "gradient_line": "every(50)"}),
        (["gradient_line=5"], {"activations": "every(10)", "gradient_line": "every(5)"}),
        (["gradient_line=0"], {"activations": "every(10)"}),
        (["0", "gradient_shift=7"], {"gradient_shift": "every(7)"}),
        (["activations=log_spaced(9)"], {"activations": "log_spaced(9)", "gradient_line": "log_spaced(40)"}),
    ],
)
def test_schedules_are_changed_one_by_one_or_together(texts: list[str], expected: dict[str, str]) -> None:
    assert parse_every(texts, RECIPE) == expected


def test_a_schedule_may_have_settings_of_its_own() -> None:
    line = "log_spaced(40, until=1000)"
    assert parse_every([f"gradient_line={line}"], RECIPE) == {**RECIPE, "gradient_line": line}
    assert set(parse_every(["every(10, start=100)"], RECIPE).values()) == {"every(10, start=100)"}


def test_an_unknown_instrument_is_named_with_its_neighbours() -> None:
    with pytest.raises(SelectionError, match="did you mean 'gradient_line'"):
        parse_every(["gradient_lin=5"], RECIPE)
