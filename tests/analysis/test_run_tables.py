"""Runs as comparisons read them."""

from pathlib import Path

import pytest

import ics
from ics.analysis.run_tables import as_runs, named, nets_of, read, read_steps
from ics.errors import UsageError
from tests.analysis.synthetic import make_run


def test_seeds_of_one_net_share_its_name(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, "bn", seed, steps=(0, 10))
    found = named(ics.open_runs(tmp_path))
    assert [(one.name, one.net, one.seed) for one in found] == [("bn-0", "bn", 0), ("bn-1", "bn", 1)]


def test_runs_of_different_configurations_are_not_seeds_of_one_net(tmp_path: Path) -> None:
    make_run(tmp_path, "bn", 0, steps=(0, 10), rate=0.1)
    make_run(tmp_path, "bn", 1, steps=(0, 10), rate=0.5)
    runs = ics.open_runs(tmp_path)
    assert list(nets_of(runs)) == ["bn, learning_rate 0.1", "bn, learning_rate 0.5"]
    frame = read(runs, "gradient_line")
    assert frame is not None
    assert frame.groupby("run")["net"].unique().map(list).tolist() == [[net] for net in nets_of(runs)]
    # so that a landscape of all of them can be drawn, though never as one band
    assert set(ics.analysis.landscape_over_steps(frame)["two_over_lr"]) == {20.0, 4.0}


def test_the_same_name_in_two_folders_stays_two_runs(tmp_path: Path) -> None:
    for part in ("a", "b"):
        make_run(tmp_path / part, "bn", 0, steps=(0, 10))
    runs = ics.open_runs([tmp_path / "a", tmp_path / "b"])
    frame = read(runs, "steps")
    assert frame is not None
    assert [one.name for one in named(runs)] == frame["run"].unique().tolist() == ["a/bn-0", "b/bn-0"]
    assert frame["net"].unique().tolist() == ["bn"]


def test_a_table_that_no_run_recorded_is_none(tmp_path: Path) -> None:
    make_run(tmp_path, "bn", 0, steps=(0, 10), without=["activations"])
    make_run(tmp_path, "standard", 0, steps=(0, 10), without=["activations", "gradient_shift"])
    runs = ics.open_runs(tmp_path)
    assert read(runs, "activations") is None
    assert read_steps(runs, "activations", columns=["mean"], where={"site": "activation"}, limit=2) is None
    shifts = read(runs, "gradient_shift")
    assert shifts is not None
    assert set(shifts["net"]) == {"bn"}


def test_only_the_steps_wanted_are_read(tmp_path: Path) -> None:
    make_run(tmp_path, "a", 0, steps=(0, 10, 20, 30))
    make_run(tmp_path, "b", 0, steps=(0, 5, 10))
    where = {"site": "activation"}
    rows = read_steps(ics.open_runs(tmp_path), "activations", columns=["step", "site"], where=where, limit=2)
    assert rows is not None
    assert rows.groupby("net")["step"].unique().map(sorted).to_dict() == {"a": [0, 30], "b": [0, 10]}
    assert set(rows["site"]) == {"activation"}


@pytest.mark.parametrize("nothing", [[], ["runs/bn-0"]])
def test_what_is_no_run_is_said_to_be_none(nothing: list) -> None:
    with pytest.raises(UsageError, match=r"ics\.open_runs"):
        as_runs(nothing)
