"""Several runs below each other, each row with where it came from."""

from __future__ import annotations

import numpy as np
import pytest

from ics.errors import DamagedPartError, NotARunError, SelectionError, UsageError
from ics.schema import TABLES
from ics.store import Runs, Writer, open_run, open_runs
from tests.store.rows import write_run


@pytest.fixture
def folder(tmp_path):
    for name, net, seed in [("bn-10", "VGG BN", 10), ("bn-2", "VGG BN", 2), ("plain-0", "VGG", 0)]:
        write_run(tmp_path / name, steps=2, config={"net": net, "seed": seed})
    (tmp_path / "report.html").write_text("")
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(runs):
    return [run.name for run in runs]


def test_runs_are_found_by_pattern_folder_list_and_path(folder, monkeypatch):
    everything = ["bn-2", "bn-10", "plain-0"]
    assert names(open_runs(folder)) == everything
    assert names(open_runs(str(folder))) == everything
    assert names(open_runs(f"{folder}/*")) == everything
    assert names(open_runs(folder / "bn-*")) == ["bn-2", "bn-10"]
    assert names(open_runs(folder / "plain-0")) == ["plain-0"]
    assert names(open_runs([folder / "plain-0", f"{folder}/bn-1?"])) == ["plain-0", "bn-10"]
    assert names(open_runs([open_run(folder / "bn-2"), folder])) == everything
    assert names(open_runs(path for path in sorted(folder.iterdir()) if path.name == "bn-2")) == ["bn-2"]
    monkeypatch.chdir(folder)
    assert names(open_runs("**")) == everything
    assert names(open_runs(".")) == everything


def test_runs_are_a_sequence(folder):
    runs = open_runs(folder)
    assert len(runs) == 3
    assert runs[-1].name == "plain-0"
    assert isinstance(runs[:2], Runs)
    assert names(runs[:2]) == ["bn-2", "bn-10"]
    assert repr(runs) == "<Runs: bn-2, bn-10, plain-0>"
    assert runs.names == ("bn-2", "bn-10", "plain-0")
    assert list(dict.fromkeys(runs.table("steps")["run"])) == list(runs.names)
    assert runs[0] in runs


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("nothing-*", "got '.*nothing-.', which matches none in"),
        ("empty", "got .*empty without a run.json"),
        ("bn-3", "did you mean 'bn-2'"),
        ("report.html", "got the file"),
    ],
)
def test_what_matches_no_run_is_an_error(folder, pattern, text):
    with pytest.raises(NotARunError, match=text):
        open_runs(str(folder / pattern))
    with pytest.raises(NotARunError, match=text):
        open_runs([folder, str(folder / pattern)])


def test_an_empty_list_is_an_error():
    with pytest.raises(NotARunError, match="one run or more, got an empty list"):
        open_runs([])


def test_every_row_has_run_net_and_seed_in_front(folder):
    frame = open_runs(folder).table("steps", columns=["step", "accuracy"])
    assert list(frame.columns) == ["run", "net", "seed", "step", "accuracy"]
    assert frame["run"].tolist() == ["bn-2"] * 2 + ["bn-10"] * 2 + ["plain-0"] * 2
    assert frame["net"].tolist() == ["VGG BN"] * 4 + ["VGG"] * 2
    assert frame["seed"].tolist() == [2, 2, 10, 10, 0, 0]
    assert frame["seed"].dtype == np.int64
    assert frame["step"].tolist() == [0, 1] * 3


def test_whole_tables_and_empty_ones_have_all_columns(folder):
    runs = open_runs(folder)
    assert list(runs.table("activations").columns) == ["run", "net", "seed", *TABLES["activations"].column_names]
    assert len(runs.table("activations")) == 24
    empty = runs.table("drift")
    assert list(empty.columns) == ["run", "net", "seed", *TABLES["drift"].column_names]
    assert len(empty) == 0


def test_net_and_seed_are_found_where_they_are(tmp_path):
    infos = {
        "a": {"config": {"name": "mlp"}, "seed": 5},
        "b": {"config": {"net": "", "seed": 7}, "seed": 1},
        "c": {},
        "d": {"config": {"net": "x", "seed": 2**70}},
        "e": {"config": {"seed": None}, "seed": 9},
    }
    for name, info in infos.items():
        write_run(tmp_path / name, steps=1, **info)
    frame = open_runs(tmp_path).table("steps")
    assert frame["net"].tolist() == ["mlp", "b", "c", "x", "e"]
    assert frame["seed"].fillna(-1).tolist() == [5, 7, -1, -1, 9]


def test_names_that_occur_twice_become_paths(tmp_path):
    for group in ("monday", "tuesday"):
        write_run(tmp_path / group / "bn-0", steps=1)
    frame = open_runs(f"{tmp_path}/*/*").table("steps")
    assert frame["run"].tolist() == ["monday/bn-0", "tuesday/bn-0"]


def test_where_may_name_run_net_and_seed(folder):
    runs = open_runs(folder)
    frame = runs.table("steps", columns="step", where={"net": "VGG BN", "step": 1})
    assert frame["run"].tolist() == ["bn-2", "bn-10"]
    assert frame["step"].tolist() == [1, 1]
    assert runs.table("steps", where=[("seed", ">=", 2), ("run", "!=", "bn-2")])["run"].unique().tolist() == ["bn-10"]
    assert len(runs.table("steps", where={"run": "nobody"})) == 0
    assert list(runs.table("steps", columns=["net", "loss"])) == ["run", "net", "seed", "loss"]
    with pytest.raises(UsageError, match="seed of runs holds int64 values"):
        runs.table("steps", where={"seed": "2"})


def test_runs_that_are_chosen_away_are_not_read(folder):
    (part,) = (folder / "plain-0" / "activations").iterdir()
    data = bytearray(part.read_bytes())
    data[4:200] = bytes(196)
    part.write_bytes(data)
    runs = open_runs(folder)
    with pytest.raises(DamagedPartError):
        runs.table("activations")
    assert len(runs.table("activations", where={"net": "VGG BN"})) == 16


def test_columns_that_only_some_runs_logged_are_null_in_the_others(tmp_path):
    for name, logged in [("a", {}), ("b", {"accuracy": [0.5]}), ("c", {"error": [0.25]})]:
        writer = Writer(tmp_path / name, info={})
        writer.append("steps", {"step": [0], **logged})
        writer.close()
    runs = open_runs(tmp_path)
    frame = runs.table("steps", columns=["accuracy", "error"])
    assert frame["accuracy"].fillna(-1).tolist() == [-1, 0.5, -1]
    assert frame["error"].fillna(-1).tolist() == [-1, -1, 0.25]
    assert runs.table("steps", where=[("accuracy", ">", 0)])["run"].tolist() == ["b"]
    with pytest.raises(SelectionError, match="no column of steps is named 'acuracy'; did you mean 'accuracy'"):
        runs.table("steps", columns=["acuracy"])
    with pytest.raises(SelectionError, match="no column of steps is named 'eror'"):
        runs.table("steps", where={"run": "nobody", "eror": 1})
