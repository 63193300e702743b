"""What was appended is read back, cell by cell and bit by bit, whichever parts it lies in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ics.schema import TABLES
from ics.store import Writer, open_run
from tests.store.rows import as_rows, in_order, random_columns, stored_rows


@pytest.mark.parametrize("closed", [False, True], ids=["flushed", "closed"])
@pytest.mark.parametrize("name", TABLES)
def test_every_cell_of_every_table_comes_back(name, closed, tmp_path):
    rng = np.random.default_rng(sum(map(ord, name)))
    writer = Writer(tmp_path / "run", info={})
    expected = []
    for num_rows in (7, 1, 0, 30):
        columns = random_columns(rng, TABLES[name], num_rows=num_rows)
        writer.append(name, columns)
        writer.flush()
        expected += as_rows(columns)
    if closed:
        writer.close()
        assert len(list((tmp_path / "run" / name).iterdir())) == 1
    else:
        assert len(list((tmp_path / "run" / name).iterdir())) == 3
    assert stored_rows(open_run(tmp_path / "run"), name) == in_order(expected, name)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_rows_has_its_columns_and_types(name, tmp_path):
    writer = Writer(tmp_path / "run", info={})
    writer.append(name, {column: [] for column in TABLES[name].column_names})
    writer.close()
    run = open_run(tmp_path / "run")
    assert run.tables == ()
    frame = run.table(name)
    assert len(frame) == 0
    assert list(frame.columns) == list(TABLES[name].column_names)
    kinds = {"int64": "i", "float64": "f", "bool": "b"}
    for column in TABLES[name].columns:
        if column.dtype in kinds:
            assert frame[column.name].dtype.kind == kinds[column.dtype], column.name


def test_a_frame_has_plain_types(tmp_path):
    writer = Writer(tmp_path / "run", info={})
    writer.append(
        "activations",
        {
            "step": [0, 1],
            "layer": ["a", "b"],
            "layer_index": [0, 1],
            "call": [0, 0],
            "site": ["input", "input"],
            "count": [4, None],
            "mean": [None, 0.5],
            "nonfinite_count": [1, 2],
            "channel_mean": [np.array([1, 2], "float32"), None],
            "histogram": [[], [3]],
            "null_reason": ["no finite values", None],
        },
    )
    writer.close()
    frame = open_run(tmp_path / "run").table("activations")
    assert frame["step"].dtype == frame["nonfinite_count"].dtype == np.int64
    assert frame["count"].dtype == frame["mean"].dtype == np.float64
    assert np.isnan(frame["count"][1])
    assert np.isnan(frame["mean"][0])
    assert pd.api.types.is_string_dtype(frame["layer"])
    assert frame["null_reason"].isna().tolist() == [False, True]
    assert frame["channel_mean"][0].dtype == np.float64
    assert frame["channel_mean"][0].tolist() == [1.0, 2.0]
    assert frame["channel_mean"][1] is None
    assert frame["histogram"][0].tolist() == []
    assert frame["histogram"][1].tolist() == [3]
    assert frame["m2"].dtype == np.float64
    assert frame["m2"].isna().all()


def test_columns_that_only_some_parts_have_are_null_in_the_others(tmp_path):
    writer = Writer(tmp_path / "run", info={})
    for step, logged in enumerate([{}, {"accuracy": [1]}, {"zeta": [np.float32(0.5)]}, {"accuracy": [True + 1]}]):
        writer.append("steps", {"step": [step], **logged})
        writer.flush()
    expected = [
        (None, None),
        ("float 1.0", None),
        (None, "float 0.5"),
        ("float 2.0", None),
    ]
    for close in (False, True):
        if close:
            writer.close()
        run = open_run(tmp_path / "run")
        assert run.columns("steps") == (*TABLES["steps"].column_names, "accuracy", "zeta")
        rows = stored_rows(run, "steps", columns=["accuracy", "zeta"])
        assert [(row["accuracy"], row["zeta"]) for row in rows] == expected


def test_columns_come_in_the_order_asked_for(tmp_path):
    writer = Writer(tmp_path / "run", info={})
    writer.append("steps", {"step": [3, 1], "loss": [0.5, 0.25]})
    writer.flush()
    run = open_run(tmp_path / "run")
    assert list(run.table("steps", columns=["loss", "step", "loss"]).columns) == ["loss", "step"]
    assert run.table("steps", columns="loss")["loss"].tolist() == [0.25, 0.5]
