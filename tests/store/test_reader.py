"""Opening runs that are not whole, not runs, or not of this version; and runs that change while they are read."""

from __future__ import annotations

import json
import os
import threading
import warnings

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ics.errors import DamagedPartError, MeasurementWarning, NotARunError, SchemaVersionError, SelectionError
from ics.schema import SCHEMA_VERSION, TABLES
from ics.store import Writer, layout, open_run, tables
from ics.store.compaction import compact
from tests.store.rows import write_run


def test_layers_are_a_frame_in_order_of_execution(tmp_path):
    layers = [
        {"name": name, "index": index, "kind": "Linear", "modules": [name], "weight": [f"{name}.weight"],
         "parameters": [f"{name}.weight"], "shape": [5, 4], "num_parameters": 20}
        for index, name in enumerate(["b", "a"])
    ]  # fmt: skip
    frame = write_run(tmp_path / "a", layers=layers).layers
    assert frame.to_dict("records") == layers
    empty = write_run(tmp_path / "b").layers
    assert len(empty) == 0
    assert list(empty.columns) == list(frame.columns)


def test_a_run_says_what_it_is(tmp_path):
    run = write_run(tmp_path / "run")
    assert repr(run) == f"<Run {tmp_path / 'run'}: completed, steps, activations>"
    assert run.tables == ("steps", "activations")
    assert run.columns("steps")[-1] == "accuracy"
    assert run.columns("drift") == TABLES["drift"].column_names


def test_a_relative_path_still_has_a_name(tmp_path, monkeypatch):
    write_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    assert open_run(".").name == "run"


def test_paths_that_hold_no_run(tmp_path):
    write_run(tmp_path / "runs" / "vgg-0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("")
    for path, text in [
        ("runs/vgg-1", "which does not exist: no run in .* is named 'vgg-1'; did you mean 'vgg-0'"),
        ("nowhere/at/all", "which does not exist: no run in .* there are none"),
        ("runs", r"a folder of runs; type open_runs\('.*runs'\) or open_run\('.*vgg-0'\)"),
        ("empty", "got .*empty without a run.json; type the folder that a recorder wrote to"),
        ("runs/vgg-0/run.json", "got the file .*run.json; type '.*vgg-0'"),
    ]:
        with pytest.raises(NotARunError, match=text):
            open_run(tmp_path / path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"schema_version": 1, "sta', "expected a run.json of JSON"),
        ("", "expected a run.json of JSON"),
        ("[]", "without one, which another program wrote"),
        ('{"epochs": 3}', "without one, which another program wrote"),
    ],
)
def test_a_run_file_of_something_else(text, expected, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(NotARunError, match=expected):
        open_run(tmp_path)


def test_a_newer_schema_says_which_version_it_needs(tmp_path):
    write_run(tmp_path)
    info = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**info, "schema_version": SCHEMA_VERSION + 1}))
    text = f"expected schema version {SCHEMA_VERSION} or older, got {SCHEMA_VERSION + 1} .* type git pull"
    with pytest.raises(SchemaVersionError, match=text):
        open_run(tmp_path)


def test_every_part_says_which_schema_it_follows_and_a_newer_one_is_refused(tmp_path):
    run = write_run(tmp_path)
    path = tmp_path / "steps" / "part-00000000-00000005.parquet"
    metadata = pq.read_metadata(path).metadata
    assert metadata[b"ics.schema_version"] == str(SCHEMA_VERSION).encode()
    assert metadata[b"ics.table"] == b"steps"
    rows = pq.read_table(path)
    newer = {b"ics.schema_version": str(SCHEMA_VERSION + 1).encode()}
    pq.write_table(rows.replace_schema_metadata(newer), path)
    with pytest.raises(SchemaVersionError, match=r"part-.*parquet, written by a newer ics"):
        run.table("steps", skip_damaged=True)


def test_a_nullable_column_added_later_is_null_in_older_parts_and_read_from_newer_ones(tmp_path):
    run = write_run(tmp_path)
    path = tmp_path / "activations" / "part-00000000-00000005.parquet"
    rows = pq.read_table(path)
    newer = rows.drop_columns(["m4", "channel_m4"]).append_column("m5", pa.array([0.5] * len(rows)))
    pq.write_table(newer, path)
    frame = run.table("activations", where=[("m5", ">", 0)])
    assert list(frame.columns) == [*TABLES["activations"].column_names, "m5"]
    assert frame["m4"].isna().all()
    assert frame["channel_m4"].isna().all()
    assert len(frame) == 24


def test_unknown_tables_and_columns_are_named_with_near_matches(tmp_path):
    run = write_run(tmp_path)
    with pytest.raises(SelectionError, match="no table is named 'activation'; did you mean 'activations'"):
        run.table("activation")
    with pytest.raises(SelectionError, match="no column of steps is named 'acuracy'; did you mean 'accuracy'"):
        run.table("steps", columns=["step", "acuracy"])
    with pytest.raises(SelectionError, match="no column of drift is named 'layr'; did you mean 'layer'"):
        run.table("drift", columns="layr")


def flip(data: bytes) -> bytes:
    """One bit of the last column's values, where only a checksum tells."""
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    chunk = group.column(group.num_columns - 1)
    assert chunk.path_in_schema == "accuracy"
    position = chunk.data_page_offset + chunk.total_compressed_size - 3
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def of_another_program(data: bytes) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"step": [1]}), buffer)
    return buffer.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no parquet" * 9, flip, of_another_program],
    ids=["cut short", "empty", "garbage", "one bit", "of another program"],
)
def test_a_damaged_part_is_named_and_the_others_stay_readable(damage, tmp_path):
    run = write_run(tmp_path, steps=3, state=None)
    path = tmp_path / "steps" / "part-00000001-00000001.parquet"
    path.write_bytes(damage(path.read_bytes()))
    assert run.tables == ("steps", "activations")
    expected = r"got .*part-00000001-00000001.parquet, which is damaged .*run.table\('steps', skip_damaged=True\)"
    with pytest.raises(DamagedPartError, match=expected) as caught:
        run.table("steps")
    assert "--table steps --skip-damaged" in str(caught.value)
    with pytest.warns(MeasurementWarning, match="left out a part and its rows: .*part-00000001-00000001.parquet"):
        assert run.table("steps", skip_damaged=True)["step"].tolist() == [0, 2]
    with pytest.warns(MeasurementWarning, match="left out a part"):
        frame = run.table("steps", columns=["accuracy"], where=[("step", ">", 0)], skip_damaged=True)
    assert frame["accuracy"].tolist() == [0.2]
    assert len(run.table("activations")) == 12


def test_skipping_damaged_parts_of_a_sound_run_warns_of_nothing(tmp_path):
    run = write_run(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(run.table("steps", skip_damaged=True)) == 6


def test_other_files_in_the_folder_of_a_table_are_no_parts(tmp_path):
    run = write_run(tmp_path, steps=2, state=None)
    before = run.table("steps")
    for name in (
        ".tmp-1-part-00000002-00000002.parquet",
        "part-00000000-00000000.parquet.bak",
        ".DS_Store",
        "part-0-1.parquet",
    ):
        (tmp_path / "steps" / name).write_bytes(b"none")
    pd.testing.assert_frame_equal(run.table("steps"), before)


def test_parts_merged_between_listing_and_reading_are_looked_up_again(tmp_path, monkeypatch):
    run = write_run(tmp_path, steps=4, state=None)
    before = run.table("steps")
    real, calls = tables.live_parts, []

    def merged_meanwhile(folder):
        parts = real(folder)
        if not calls:
            compact(folder, TABLES["steps"])
        calls.append(folder)
        return parts

    monkeypatch.setattr(tables, "live_parts", merged_meanwhile)
    pd.testing.assert_frame_equal(run.table("steps"), before)
    assert len(calls) == 2


def test_a_listing_torn_by_merging_is_taken_again(tmp_path, monkeypatch):
    run = write_run(tmp_path, steps=4, state=None)
    before = run.table("steps")
    real, torn = os.listdir, []

    def listing(folder):
        names = sorted(real(folder))
        if not torn:  # it saw the old parts 0 and 1, then the merged part came and 2 and 3 went, but not yet 0 and 1
            torn.extend(names[:2])
            kept = {name: (tmp_path / "steps" / name).read_bytes() for name in torn}
            compact(tmp_path / "steps", TABLES["steps"])
            for name, data in kept.items():
                (tmp_path / "steps" / name).write_bytes(data)
            return torn
        return names

    monkeypatch.setattr(layout.os, "listdir", listing)
    pd.testing.assert_frame_equal(run.table("steps"), before)
    assert torn


def test_a_run_can_be_read_all_the_while_it_is_written_and_merged(tmp_path):
    flushed, seen, wrong = [0], [], []
    writer = Writer(tmp_path, info={})
    done = threading.Event()

    def read():
        while not done.is_set():
            least = flushed[0]
            steps = open_run(tmp_path).table("steps")["step"].tolist()
            seen.append(len(steps))
            if steps != list(range(len(steps))) or len(steps) < least:
                wrong.append((least, steps))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for step in range(60):
            writer.append("steps", {"step": [step]})
            writer.flush()
            flushed[0] = step + 1
        writer.close()
    finally:
        done.set()
        reader.join()
    assert not wrong
    assert len(seen) > 3
