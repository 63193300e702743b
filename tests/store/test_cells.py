"""Cells that fit a column in another guise are taken; those that do not are refused by column, row and type."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ics.errors import SelectionError, UsageError
from ics.schema import TABLES, Column
from ics.store.cells import to_column, to_rows

NOW = {"layer": ["a"], "layer_index": [0], "call": [0], "site": ["input"], "step": [0]}


def convert(dtype, cells):
    return to_column("activations", Column("value", dtype, ""), cells).to_pylist()


@pytest.mark.parametrize(
    ("dtype", "cells", "expected"),
    [
        ("int64", [1, np.int32(2), 3.0, None], [1, 2, 3, None]),
        ("int64", np.array([1, 2], "uint8"), [1, 2]),
        ("int64", np.array([2.0**53, -1.0]), [2**53, -1]),
        ("int64", [2**63 - 1, None], [2**63 - 1, None]),
        ("float64", [1, 2.5, None, np.float16(0.5)], [1.0, 2.5, None, 0.5]),
        ("float64", np.array([1, 2], "int32"), [1.0, 2.0]),
        ("float64", [2**60 + 1], [float(2**60)]),
        ("float64", pd.Series([1.5, 2.5], index=[7, 8]), [1.5, 2.5]),
        ("string", ["a", None, np.str_("b")], ["a", None, "b"]),
        ("string", pd.Series(["a", "b"]), ["a", "b"]),
        ("bool", [True, np.bool_(False), None], [True, False, None]),
        ("list<float64>", np.arange(4, dtype="float32").reshape(2, 2), [[0.0, 1.0], [2.0, 3.0]]),
        ("list<float64>", [np.array([1, 2]), [0.5, None], (), None], [[1.0, 2.0], [0.5, None], [], None]),
        ("list<int64>", [np.array([]), np.array([2**53 + 1])], [[], [2**53 + 1]]),
        ("list<int64>", [np.array([1.0, 2.0]), None], [[1, 2], None]),
        ("list<int64>", [None, None], [None, None]),
        ("list<int64>", [], []),
    ],
)
def test_what_fits_is_taken(dtype, cells, expected):
    assert convert(dtype, cells) == expected


def test_nan_stays_nan_and_none_becomes_null():
    for cells in ([math.nan, None], np.array([math.nan]), pd.Series([math.nan])):
        column = to_column("steps", Column("loss", "float64", ""), cells)
        assert math.isnan(column[0].as_py())
        assert column.null_count == len(cells) - 1


@pytest.mark.parametrize(
    ("dtype", "cells", "row", "got"),
    [
        ("int64", [1, 2.5], 1, "2.5 (float)"),
        ("int64", [None, True], 1, "True (bool)"),
        ("int64", ["3"], 0, "'3' (str)"),
        ("int64", [math.nan], 0, "nan (float)"),
        ("int64", [0, 2**63], 1, "9223372036854775808 (int)"),
        ("float64", [1.0, "abc"], 1, "'abc' (str)"),
        ("float64", [True], 0, "True (bool)"),
        ("float64", [1j], 0, "1j (complex)"),
        ("float64", [Decimal("0.1")], 0, "Decimal('0.1') (Decimal)"),
        ("float64", [[1.0]], 0, "[1.0] (list)"),
        ("string", ["a", 1], 1, "1 (int)"),
        ("string", [b"a"], 0, "b'a' (bytes)"),
        ("string", ["\ud800"], 0, "'\\ud800' (str)"),
        ("bool", [1], 0, "1 (int)"),
        ("list<float64>", [[1.0], 2.0], 1, "2.0 (float)"),
        ("list<float64>", ["ab"], 0, "'ab' (str)"),
        ("list<float64>", [None, np.zeros((2, 2))], 1, "array([[0., 0.],"),
        ("list<float64>", [np.array(1.0)], 0, "array(1.) (ndarray)"),
        ("list<int64>", [np.array([1.5])], 0, "array([1.5]) (ndarray)"),
        ("list<int64>", [[1], [True]], 1, "[True] (list)"),
    ],
)
def test_what_does_not_fit_is_named_with_its_row(dtype, cells, row, got):
    with pytest.raises(UsageError) as caught:
        convert(dtype, cells)
    text = str(caught.value)
    assert f"got {got}" in text
    assert "\n" not in text
    assert f"in row {row}" in text
    assert f"({dtype})" in text


@pytest.mark.parametrize(
    ("columns", "error", "text"),
    [
        ({**NOW, "mean": [1.0, 2.0]}, UsageError, "got lengths .*'mean': 2"),
        ({**NOW, "mean": 1.0}, UsageError, r"one cell per row, got 1.0 \(float\)"),
        ({**NOW, "mean": "ab"}, UsageError, "one cell per row, got 'ab'"),
        ({**NOW, "maen": [1.0]}, SelectionError, "no column of activations is named 'maen'; did you mean 'mean'"),
        ({**NOW, "site": [None]}, UsageError, "site is a key of activations and expects a value"),
        ({"step": [0], "mean": [1.0]}, UsageError, "got none of layer, layer_index, call, site"),
    ],
)
def test_rows_that_do_not_fit_a_table(columns, error, text):
    with pytest.raises(error, match=text):
        to_rows(TABLES["activations"], columns)


@pytest.mark.parametrize("name", ["run", "net", "seed", ""])
def test_names_that_tell_runs_apart_cannot_be_logged(name):
    with pytest.raises(SelectionError, match="log it under another name"):
        to_rows(TABLES["steps"], {"step": [0], name: [1.0]})


def test_a_logged_column_takes_numbers_only():
    assert to_rows(TABLES["steps"], {"step": [0], "accuracy": [1]})["accuracy"].type == pa.float64()
    with pytest.raises(UsageError, match="phase of steps expects numbers"):
        to_rows(TABLES["steps"], {"step": [0], "phase": ["warm-up"]})
