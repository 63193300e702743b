"""The writer: what it refuses, what it replaces, and what it does when the disk fails it."""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from ics.errors import MeasurementWarning, SelectionError, StoreError, UsageError
from ics.schema import SCHEMA_VERSION
from ics.store import Writer, compaction, open_run, writer
from tests.store.rows import site_rows, write_run


def steps_of(path: Path) -> list[int]:
    return open_run(path).table("steps")["step"].tolist()


def test_run_json_tells_how_the_run_stands(tmp_path):
    path = tmp_path / "runs" / "new"
    one = Writer(path, info={"config": {"lr": 0.1}, "seed": 3})
    run = open_run(path)
    assert (run.state, run.name, run.tables) == ("running", "new", ())
    assert run.info["schema_version"] == SCHEMA_VERSION
    assert run.info["ended"] is None
    one.update_info(notes=["careful"], seed=4)
    one.close("failed")
    info = open_run(path).info
    assert (info["state"], info["notes"], info["seed"], info["config"]) == ("failed", ["careful"], 4, {"lr": 0.1})
    assert datetime.fromisoformat(info["started"]) <= datetime.fromisoformat(info["ended"])
    assert sorted(os.listdir(path)) == ["run.json"]


def test_rows_are_on_disk_after_flush_and_not_before(tmp_path):
    one = Writer(tmp_path, info={})
    one.append("steps", {"step": [0]})
    assert steps_of(tmp_path) == []
    one.flush()
    assert steps_of(tmp_path) == [0]
    one.flush()
    assert len(list((tmp_path / "steps").iterdir())) == 1


def test_a_file_is_forced_to_disk_before_it_gets_its_name_and_the_name_afterwards(tmp_path, monkeypatch):
    one = Writer(tmp_path, info={})
    one.append("steps", {"step": [0]})
    calls = []
    real = os.replace

    def note_force(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    def note_rename(source, target):
        calls.append("rename")
        real(source, target)

    monkeypatch.setattr(os, "fsync", note_force)
    monkeypatch.setattr(os, "replace", note_rename)
    one.flush()
    assert calls == ["file", "rename", "folder"]


def test_closing_twice_is_harmless_and_writing_afterwards_is_refused(tmp_path):
    one = Writer(tmp_path, info={})
    one.append("steps", {"step": [0]})
    one.close("interrupted")
    one.close("completed")
    assert open_run(tmp_path).state == "interrupted"
    for late in (lambda: one.append("steps", {"step": [1]}), one.flush, lambda: one.update_info(seed=1)):
        with pytest.raises(UsageError, match="was closed and takes no more rows"):
            late()


def test_a_run_cannot_end_as_running(tmp_path):
    with pytest.raises(UsageError, match=r'type close\("completed"\)'):
        Writer(tmp_path, info={}).close("running")


@pytest.mark.parametrize("field", ["state", "schema_version", "ended"])
def test_the_writers_own_fields_cannot_be_handed_in(field, tmp_path):
    with pytest.raises(UsageError, match=f"itself writes {field}"):
        Writer(tmp_path / "run", info={field: 1})
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=f"itself writes {field}"):
        Writer(tmp_path / "run", info={}).update_info(**{field: 1})


def test_an_unknown_table_is_named_with_near_matches(tmp_path):
    with pytest.raises(SelectionError, match="no table is named 'step'; did you mean 'steps'"):
        Writer(tmp_path, info={}).append("step", {"step": [0]})


def test_a_run_that_is_there_is_replaced_only_on_request_and_nothing_else_with_it(tmp_path):
    write_run(tmp_path, steps=3)
    (tmp_path / "checkpoint.pt").write_text("weights")
    (tmp_path / "steps" / "notes.txt").write_text("mine")
    (tmp_path / "activations" / ".tmp-123-part").write_text("left over")
    with pytest.raises(UsageError, match="which holds one; pass overwrite=True to replace it"):
        Writer(tmp_path, info={})
    assert steps_of(tmp_path) == [0, 1, 2]
    Writer(tmp_path, info={"seed": 7}, overwrite=True)
    assert open_run(tmp_path).info["seed"] == 7
    assert open_run(tmp_path).tables == ()
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.pt", "run.json", "steps"]
    assert os.listdir(tmp_path / "steps") == ["notes.txt"]


def test_a_folder_with_other_things_takes_a_run_and_a_file_does_not(tmp_path):
    (tmp_path / "hparams.yaml").write_text("lr: 1")
    Writer(tmp_path, info={})
    with pytest.raises(UsageError, match="got the file"):
        Writer(tmp_path / "hparams.yaml", info={}, overwrite=True)


def test_parts_without_a_run_file_are_never_taken_into_a_new_run(tmp_path):
    write_run(tmp_path, steps=2)
    (tmp_path / "run.json").unlink()
    with pytest.raises(UsageError, match="overwrite=True"):
        Writer(tmp_path, info={})


@dataclass(frozen=True)
class Config:
    lr: float
    betas: tuple[float, float]


def test_run_json_is_strict_json_and_gives_non_finite_numbers_back(tmp_path):
    info = {
        "config": Config(math.inf, (0.9, -math.inf)),
        "last": {"loss": math.nan, "scale": np.float32(0.5), "steps": np.int64(3)},
        "path": Path("a") / "b",
        "sizes": np.arange(3),
        "schedule": {100: 0.1},
    }
    Writer(tmp_path, info=info)
    text = (tmp_path / "run.json").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(text, parse_constant=refuse)
    read = open_run(tmp_path).info
    assert read["config"] == {"lr": math.inf, "betas": [0.9, -math.inf]}
    assert math.isnan(read["last"].pop("loss"))
    assert read["last"] == {"scale": 0.5, "steps": 3}
    assert (read["path"], read["sizes"], read["schedule"]) == ("a/b", [0, 1, 2], {"100": 0.1})


def test_a_full_disk_loses_no_row_and_doubles_none(tmp_path, monkeypatch):
    one = Writer(tmp_path, info={})
    real = os.replace
    for step in range(6):
        one.append("steps", {"step": [step]})
        one.append("activations", site_rows(step))
        if step % 2:
            # Before the rename on one step, after it on the other: the second leaves a part that is not counted yet.
            def fail(source, target, step=step):
                if step == 3:
                    real(source, target)
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(os, "replace", fail)
            with pytest.raises(StoreError, match=r"No space left on device.*; its rows stay in memory"):
                one.flush()
            assert not any(".tmp" in path.name for path in tmp_path.rglob("*"))
            monkeypatch.setattr(os, "replace", real)
        else:
            one.flush()
    one.close()
    assert steps_of(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert len(open_run(tmp_path).table("activations")) == 24


def test_an_interrupt_during_a_flush_loses_no_row_and_doubles_none(tmp_path, monkeypatch):
    one = Writer(tmp_path, info={})
    one.append("steps", {"step": [0]})
    real = writer.write_part

    def interrupted(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "write_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.flush()
    monkeypatch.undo()
    one.append("steps", {"step": [1]})
    one.close("interrupted")
    assert steps_of(tmp_path) == [0, 1]


def test_a_folder_that_vanished_is_an_error_that_names_it(tmp_path):
    one = Writer(tmp_path / "run", info={})
    one.append("steps", {"step": [0]})
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run").rmdir()
    with pytest.raises(StoreError, match="could not be written"):
        one.flush()
    with pytest.raises(StoreError, match=r"run.json could not be written"):
        one.update_info(seed=1)


def test_parts_that_cannot_be_merged_stay_and_are_warned_about(tmp_path):
    one = Writer(tmp_path, info={})
    for step in range(3):
        one.append("steps", {"step": [step]})
        one.flush()
    damaged = tmp_path / "steps" / "part-00000001-00000001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.warns(MeasurementWarning, match="the parts of steps in .* could not be merged"):
        one.close()
    assert len(list((tmp_path / "steps").iterdir())) == 3
    run = open_run(tmp_path)
    assert run.state == "completed"
    with pytest.warns(MeasurementWarning, match="left out a part"):
        assert run.table("steps", skip_damaged=True)["step"].tolist() == [0, 2]


def flushes_of(folder: Path) -> list[tuple[int, int]]:
    return sorted((int(name[5:13]), int(name[14:22])) for name in os.listdir(folder))


def test_what_is_large_is_not_written_anew_when_a_run_ends(tmp_path, monkeypatch):
    one = Writer(tmp_path, info={})
    rng = np.random.default_rng(0)
    lists = {step: rng.standard_normal((4, 5000)) for step in range(7)}  # 160 kB a flush
    for step, cells in lists.items():
        one.append("activations", {**site_rows(step), "channel_m2": cells})
        one.flush()
    monkeypatch.setattr(compaction, "_MAX_BYTES_AT_END", 400_000)
    one.close()
    assert flushes_of(tmp_path / "activations") == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 6)]
    frame = open_run(tmp_path).table("activations", where={"layer": "conv2", "site": "activation"})
    assert frame["step"].tolist() == list(lists)
    for step, cells in lists.items():
        assert np.array_equal(frame["channel_m2"][step], cells[3])


def test_parts_stay_few_while_a_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "_FAN_IN", 3)
    one = Writer(tmp_path, info={})
    for step in range(32):
        one.append("steps", {"step": [step], "loss": [float(step)]})
        one.append("activations", site_rows(step))
        one.flush()
        parts = flushes_of(tmp_path / "activations")
        assert [last - first + 1 for first, last in parts] == digits_base_3(step + 1)
        assert [first for first, _ in parts] == [0, *(last + 1 for _, last in parts[:-1])]
        assert steps_of(tmp_path) == list(range(step + 1))
    frame = open_run(tmp_path).table("activations", where={"layer": "conv2", "site": "input"})
    assert frame["step"].tolist() == list(range(32))
    one.close()
    assert flushes_of(tmp_path / "steps") == [(0, 31)]


def digits_base_3(number: int) -> list[int]:
    """The powers of 3 that add up to a number, the largest first, each as often as it occurs."""
    powers = []
    for exponent in (3, 2, 1, 0):
        count, number = divmod(number, 3**exponent)
        powers += [3**exponent] * count
    return powers


def test_parts_that_cannot_be_merged_do_not_stop_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "_FAN_IN", 3)
    one = Writer(tmp_path, info={})
    for step in range(7):
        one.append("steps", {"step": [step]})
        one.flush()
        if step == 1:
            damaged = tmp_path / "steps" / "part-00000001-00000001.parquet"
            damaged.write_bytes(damaged.read_bytes()[:-20])
    assert len(flushes_of(tmp_path / "steps")) == 7
    with pytest.warns(MeasurementWarning, match="could not be merged"):
        one.close()


def test_a_merge_that_was_interrupted_before_it_cleaned_up_doubles_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "_FAN_IN", 3)
    one = Writer(tmp_path, info={})

    def interrupted(parts):
        raise KeyboardInterrupt

    for step in range(12):
        one.append("steps", {"step": [step]})
        with monkeypatch.context() as patch:
            if step == 2:
                patch.setattr(compaction, "_remove", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    one.flush()
            else:
                one.flush()
        assert steps_of(tmp_path) == list(range(step + 1))
    one.close()
    assert flushes_of(tmp_path / "steps") == [(0, 11)]
