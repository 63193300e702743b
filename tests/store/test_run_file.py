"""run.json: everything a configuration may hold goes through JSON and back."""

from __future__ import annotations

import enum
import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ics.errors import UsageError
from ics.store.run_file import _restore, to_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


class Mode(enum.Enum):
    FAST = "fast"


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_what_json_can_hold_comes_back_equal(value):
    text = json.dumps(to_json(value), allow_nan=False)
    assert repr(json.loads(text, object_hook=_restore)) == repr(value)  # repr: NaN equals itself, 1 is not 1.0


def test_other_values_take_the_nearest_form():
    day = datetime(2020, 1, 2, tzinfo=UTC)
    value = {"mode": Mode.FAST, "names": {"b", "a"}, "when": day, "clip": (math.inf,)}
    assert to_json(value) == {
        "mode": "fast",
        "names": ["a", "b"],
        "when": "2020-01-02T00:00:00+00:00",
        "clip": [{"$float": "inf"}],
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"model": {"layers": [1, object()]}}, "got object at info.model.layers\\[1\\]; hand in str"),
        ({"norm": dict}, "got type at info.norm"),
        ({"a": {(1, 2): 3}}, r"takes strings as keys, got \(1, 2\) \(tuple\) in info.a"),
        ({"a": {True: 3}}, "takes strings as keys, got True"),
        ({"z": 1j}, "got complex at info.z"),
    ],
)
def test_what_has_no_form_in_json_is_named_with_its_place(value, text):
    with pytest.raises(UsageError, match=text):
        to_json(value)
