"""`where` keeps the rows that the same comparison keeps in pandas, in every way of storing them."""

from __future__ import annotations

import math
import operator

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ics.errors import SelectionError, UsageError
from ics.store import Writer, open_run

FLOATS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, math.inf, -math.inf, math.nan, None])
WHOLE = st.integers(-3, 3)
NAMES = st.sampled_from(["", "a", "conv1", "conv10", "conv2", "ü"])
TRUTHS = st.sampled_from([True, False, None])
MISSING = (None, math.nan)
COMPARE = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
ORDERED = st.sampled_from(sorted(COMPARE))
EQUAL = st.sampled_from(["=", "==", "!="])

ROW = st.fixed_dictionaries(
    {"step": WHOLE, "layer": NAMES, "mean": FLOATS, "count": st.none() | WHOLE, "null_reason": st.none() | NAMES}
)
CONDITION = st.one_of(
    st.tuples(st.just("step"), ORDERED, WHOLE | WHOLE.map(float)),
    st.tuples(st.just("layer"), ORDERED, NAMES),
    st.tuples(st.just("mean"), ORDERED, FLOATS.filter(lambda value: value is not None and value == value) | WHOLE),
    st.tuples(st.just("count"), ORDERED, WHOLE),
    st.tuples(st.just("null_reason"), EQUAL, NAMES),
    st.tuples(st.sampled_from(["mean", "count", "null_reason"]), EQUAL, st.sampled_from(MISSING)),
    st.tuples(st.just("step"), st.just("in"), st.lists(WHOLE, max_size=3)),
    st.tuples(st.sampled_from(["layer", "null_reason"]), st.just("in"), st.lists(NAMES, max_size=3)),
    st.tuples(st.just("mean"), st.just("in"), st.lists(FLOATS, max_size=3)),
)


def kept(frame: pd.DataFrame, column: str, sign: str, value: object) -> pd.Series:
    """Which rows plain pandas keeps, on cells of the type object so that no dtype has its own idea of missing."""
    cells = frame[column].astype(object).where(frame[column].notna(), math.nan)
    values = value if sign == "in" else [value]
    missing = any(one is None or one != one for one in values)
    if sign == "in" or missing:
        known = [one for one in values if one is not None and one == one]
        among = cells.map(lambda cell: any(cell == one for one in known)) | (cells.isna() if missing else False)
        return ~among.astype(bool) if sign == "!=" else among.astype(bool)
    return cells.map(lambda cell: sign == "!=" if cell != cell else COMPARE[sign](cell, value)).astype(bool)


def write(path, rows, *, flushes, close):
    writer = Writer(path, info={})
    for chunk in np.array_split(np.arange(len(rows)), flushes):
        columns = {name: [rows[number][name] for number in chunk] for name in rows[0]}
        count = len(chunk)
        writer.append(
            "activations", {**columns, "layer_index": [0] * count, "call": [0] * count, "site": ["input"] * count}
        )
        writer.flush()
    if close:
        writer.close()
    return open_run(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(ROW, min_size=1, max_size=8),
    conditions=st.lists(CONDITION, max_size=3),
    flushes=st.integers(1, 2),
    close=st.booleans(),
)
def test_where_keeps_what_pandas_keeps(rows, conditions, flushes, close, tmp_path_factory):
    run = write(tmp_path_factory.mktemp("where") / "run", rows, flushes=flushes, close=close)
    frame = run.table("activations")
    mask = pd.Series(True, index=frame.index)
    for condition in conditions:
        mask &= kept(frame, *condition)
    expected = frame[mask].reset_index(drop=True)
    pd.testing.assert_frame_equal(run.table("activations", where=conditions), expected, check_dtype=False)


@pytest.mark.parametrize("sign", ["=", "!="])
@pytest.mark.parametrize("value", [True, False, None])
def test_truths_are_compared_too(sign, value, tmp_path):
    writer = Writer(tmp_path / "run", info={})
    measured = [True, False, None]
    writer.append("steps", {"step": [0, 1, 2], "measured": measured})
    writer.flush()
    got = open_run(tmp_path / "run").table("steps", where=[("measured", sign, value)])["step"].tolist()
    assert got == [step for step, cell in enumerate(measured) if (cell is value) == (sign == "=")]


def test_nan_in_a_row_group_of_equal_values_is_not_overlooked(tmp_path):
    # Parquet's least and greatest value are both 1 here, from which Arrow alone concludes that every value is 1.
    writer = Writer(tmp_path / "run", info={})
    writer.append("steps", {"step": [0, 1, 2], "loss": [1.0, math.nan, 1.0]})
    writer.close()
    run = open_run(tmp_path / "run")
    assert run.table("steps", where=[("loss", "!=", 1)])["step"].tolist() == [1]
    assert run.table("steps", where={"loss": None})["step"].tolist() == [1]
    assert run.table("steps", where={"loss": [None, 2.0]})["step"].tolist() == [1]


def test_zero_is_zero_whatever_its_sign(tmp_path):
    writer = Writer(tmp_path / "run", info={})
    writer.append("steps", {"step": [0, 1, 2], "loss": [0.0, -0.0, 1.0]})
    writer.close()
    run = open_run(tmp_path / "run")
    for zero in (0, 0.0, -0.0):
        assert run.table("steps", where={"loss": zero})["step"].tolist() == [0, 1]
        assert run.table("steps", where={"loss": [zero, 2.0]})["step"].tolist() == [0, 1]


def test_a_mapping_is_equality_and_lists_are_alternatives(tmp_path):
    rows = [{"step": step, "layer": layer} for step in range(4) for layer in ("a", "b", "c")]
    run = write(tmp_path / "run", rows, flushes=2, close=False)
    frame = run.table("activations", where={"layer": ["a", "c"], "step": np.int64(2)})
    assert frame["layer"].tolist() == ["a", "c"]
    for values in ((1, 2), {1, 2}, range(1, 3), np.array([1, 2]), pd.Series([1, 2], index=[5, 6])):
        assert run.table("activations", columns="step", where={"step": values, "layer": "b"})["step"].tolist() == [1, 2]
    assert len(run.table("activations", where=[("layer", "in", [])])) == 0


@pytest.mark.parametrize(
    ("where", "error", "text"),
    [
        ({"stepp": 1}, SelectionError, "no column of activations is named 'stepp'; did you mean 'step'"),
        ([("step", "=>", 1)], SelectionError, "no operator of where is named '=>'; did you mean"),
        ([("step", "like", 1)], SelectionError, "no operator of where is named 'like'"),
        ({"step": "1"}, UsageError, r"step of activations holds int64 values, got '1' \(str\)"),
        ({"step": 1.5}, UsageError, r"step of activations holds int64 values, got 1.5 \(float\)"),
        ({"step": True}, UsageError, "step of activations holds int64 values, got True"),
        ({"step": 2**63}, UsageError, "step of activations holds int64 values"),
        ({"step": math.inf}, UsageError, "step of activations holds int64 values, got inf"),
        ({"layer": 1}, UsageError, r"layer of activations holds string values, got 1 \(int\)"),
        ({"mean": "1"}, UsageError, "mean of activations holds double values"),
        ({"channel_mean": 1.0}, UsageError, "channel_mean of activations holds lists"),
        ([("mean", "<", None)], UsageError, "compare None with = or !="),
        ([("step", "<", [1])], UsageError, "'<' on step of activations expects one value"),
        ([("step", "in", 1)], UsageError, "'in' on step of activations expects a list"),
        ([("step", 1)], UsageError, "where expects a mapping or a list of"),
        (("step", "=", 1), UsageError, "where expects a mapping or a list of"),
        ("step = 1", UsageError, "where expects a mapping or a list of"),
        (7, UsageError, "where expects a mapping or a list of"),
    ],
)
def test_a_mistake_in_where_gets_one_sentence(where, error, text, tmp_path):
    run = write(tmp_path / "run", [{"step": 0, "layer": "a"}], flushes=1, close=True)
    with pytest.raises(error, match=text):
        run.table("activations", where=where)
