"""Commands that train, and the two that say what can be trained."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import ics
from ics.experiments import MODELS, RECIPES
from tests.cli.conftest import Command

SHORT = ("--steps", 2, "--batch-size", 16, "--every", 1)
UNMEASURED = ("--steps", 2, "--batch-size", 16, "--every", 0)


def test_train_records_what_was_asked_for(runs: Path) -> None:
    found = {run.name: run for run in ics.open_runs(f"{runs}/*")}
    assert set(found) == {"standard-0", "standard-1", "batchnorm-0", "batchnorm-1"}
    config = found["batchnorm-1"].info["config"]
    expected = {"recipe": "digits-mlp", "norm": "batch", "net": "BatchNorm", "seed": 1, "steps": 4, "batch_size": 32}
    assert {name: config[name] for name in expected} == expected
    assert found["batchnorm-1"].state == "completed"
    assert set(found["batchnorm-1"].tables) >= {"steps", "activations", "gradients", "gradient_shift", "gradient_line"}


def test_seeds_differ_in_their_losses(runs: Path) -> None:
    losses = ics.open_runs(f"{runs}/standard-*").table("steps").groupby("seed")["loss"].apply(list)
    assert losses.loc[0] != losses.loc[1]


def test_train_takes_every_option(run_ics: Command, tmp_path: Path) -> None:
    options = ("--lr", 0.05, "--seed", 7, "--layers", "linear*", "--net", "mine", "--device", "cpu")
    outcome = run_ics("train", "digits-mlp", *SHORT, *options, "--every", "gradient_line=0", "--to", tmp_path / "x")
    assert outcome.status == 0
    assert f"ics show {tmp_path / 'x'}" in outcome.out
    run = ics.open_run(tmp_path / "x")
    assert (run.info["config"]["learning_rate"], run.info["seed"], run.info["config"]["net"]) == (0.05, 7, "mine")
    assert "gradient_line" not in run.tables
    assert all(name.startswith("linear") for name in run.table("gradient_shift")["layer"])


def test_train_takes_a_model_of_your_own(run_ics: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets_trained.py").write_text(
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert run_ics("train", "digits-mlp", *SHORT, "--model", "own_nets_trained:build").status == 0
    assert list(ics.open_run("runs/digits-mlp-none-0").layers["name"]) == ["1", "3"]


def test_train_overwrites_only_when_told(run_ics: Command, tmp_path: Path) -> None:
    command = ("train", "digits-mlp", *SHORT, "--to", tmp_path / "x")
    assert run_ics(*command).status == 0
    assert run_ics(*command).mistake == (
        f"ics: {tmp_path / 'x'} exists already; type --overwrite to replace it, or another --to"
    )
    assert run_ics(*command, "--overwrite").status == 0


def test_train_shows_its_progress(run_ics: Command, tmp_path: Path) -> None:
    outcome = run_ics("train", "digits-mlp", *SHORT, "--to", tmp_path / "progress-of-me")
    assert "progress-of-me" in outcome.err
    assert "2/2" in outcome.err


def test_a_sweep_trains_a_grid_and_says_how_it_ended(run_ics: Command, tmp_path: Path) -> None:
    grid = ("--sweep", "lr=0.1,0.5", "--sweep", "norm=none,batch", "--seeds", "0,3", "--to", tmp_path / "grid")
    command = ("train", "digits-mlp", *UNMEASURED, *grid, "--workers", 1)
    outcome = run_ics(*command)
    assert outcome.status == 0
    assert f'ics.open_runs("{tmp_path}/grid")' in outcome.out
    runs = ics.open_runs(tmp_path / "grid")
    found = [tuple(run.info["config"][name] for name in ("net", "learning_rate", "norm", "seed")) for run in runs]
    labels = {"none": "standard", "batch": "BatchNorm"}
    assert sorted(found) == sorted(
        (f"{labels[norm]} lr={lr}", lr, norm, seed) for norm in labels for lr in (0.1, 0.5) for seed in (0, 3)
    )
    rows = [line for line in outcome.out.splitlines() if " done " in line]
    assert len(rows) == 8
    assert "standard lr=0.1    0" in rows[0]
    loss = ics.open_run(runs[0].path).table("steps")["loss"].iloc[-1]
    assert any(f" {loss:.4g} " in row for row in rows)
    again = run_ics(*command)  # resumes: nothing is left to do
    assert (again.status, again.out.count(" reused "), again.out.count(" done ")) == (0, 8, 0)


def test_seeds_are_trained_in_processes_beside_each_other(run_ics: Command, tmp_path: Path) -> None:
    outcome = run_ics("train", "digits-mlp", *UNMEASURED, "--seeds", "2..3", "--workers", 2, "--to", tmp_path / "x")
    assert outcome.status == 0
    assert [run.info["seed"] for run in ics.open_runs(tmp_path)] == [2, 3]
    assert [run.name for run in ics.open_runs(tmp_path)] == ["x-2", "x-3"]
    assert f"ics report {tmp_path}/x-2 {tmp_path}/x-3" in outcome.out


def test_runs_that_fail_are_counted_and_the_others_stay(run_ics: Command, tmp_path: Path) -> None:
    command = (
        "train",
        "digits-mlp",
        *UNMEASURED,
        "--sweep",
        "device=cpu,abacus",
        "--to",
        tmp_path / "x",
        "--workers",
        1,
    )
    outcome = run_ics(*command)
    assert outcome.status == 2
    assert "1 of 2 runs failed" in outcome.err.splitlines()[-1]
    assert "abacus" in outcome.err.splitlines()[-1]
    assert len(ics.open_runs(tmp_path / "x")) == 1


def test_a_folder_with_runs_of_other_settings_is_not_replaced(run_ics: Command, tmp_path: Path) -> None:
    command = ("train", "digits-mlp", *UNMEASURED, "--seeds", 2, "--workers", 1, "--to", tmp_path / "x")
    assert run_ics(*command).status == 0
    assert "another configuration" in run_ics(*command, "--lr", 0.3).err.splitlines()[-1]
    assert run_ics(*command, "--lr", 0.3, "--overwrite").status == 0
    assert ics.open_run(tmp_path / "x-1").info["config"]["learning_rate"] == 0.3


def test_any_setting_can_be_set_by_its_name(run_ics: Command, tmp_path: Path) -> None:
    options = ("--set", "momentum=0.9", "--set", "hidden=5x6", "--set", "norm=batch")
    assert run_ics("train", "digits-mlp", *UNMEASURED, *options, "--to", tmp_path / "x").status == 0
    config = ics.open_run(tmp_path / "x").info["config"]
    assert (config["momentum"], config["hidden"], config["net"]) == (0.9, [5, 6], "BatchNorm")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--sweep", "lrr=1"], "no setting is named 'lrr'; did you mean 'lr'"),
        (["--sweep", "lr"], "type e.g. --sweep lr=0.1"),
        (["--sweep", "lr=fast"], "learning_rate is a number, got 'fast'"),
        (["--sweep", "lr=0.1,0.10"], "names each value of lr once"),
        (["--sweep", "seed=1,2"], "seeds are swept by --seeds"),
        (["--set", "steps=0.5"], "steps is a whole number, got '0.5'"),
        (["--set", "optimizer=sdg"], "sdg"),
        (["--seeds", "0"], "--seeds is at least 1, got 0"),
        (["--seeds", "many"], "type --seeds 5, 0,1,2 or 0..4"),
        (["--seeds", "4..0"], "the lowest first"),
        (["--seeds", "0,1", "--seed", "3"], "leave --seed 3 out"),
        (["--workers", "0"], "workers is a whole number of at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_a_sweep_is_one_sentence(
    options: list[str], part: str, run_ics: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in run_ics("train", "digits-mlp", *UNMEASURED, *options).mistake


def test_demo_writes_runs_and_a_report_twice(run_ics: Command, tmp_path: Path) -> None:
    command = ("demo", "--seeds", 1, "--to", tmp_path / "demo")
    assert run_ics(*command, "--steps", 1).status == 0
    outcome = run_ics(*command, "--steps", 21)  # replaces its own runs
    assert outcome.status == 0
    runs = ics.open_runs(f"{tmp_path}/demo/*-0")
    assert [run.name for run in runs] == ["batchnorm-0", "standard-0"]
    assert [len(run.table("steps")) for run in runs] == [21, 21]
    first, second, third, *_ = outcome.out.splitlines()
    ordered = ics.open_runs([tmp_path / "demo" / "standard-0", tmp_path / "demo" / "batchnorm-0"])
    assert (first.strip(), second.strip(), third.strip()) == ics.analysis.headline(ordered)
    assert f"Report: {tmp_path / 'demo' / 'report.html'}" in outcome.out
    assert "with recorder.step(batch) as step:" in outcome.out
    html = (tmp_path / "demo" / "report.html").read_text()
    assert "<img" in html or "<svg" in html


def test_recipes_lists_each_with_its_source(run_ics: Command) -> None:
    out = run_ics("recipes").out
    assert all(name in out for name in RECIPES)
    assert "Santurkar et al. 2018" in out


@pytest.mark.parametrize("name", [name for name in MODELS if name != "vgg16"])
def test_layers_lists_a_model_as_it_stands(name: str, run_ics: Command) -> None:
    outcome = run_ics("layers", name, "--norm", "batch")
    assert outcome.status == 0
    assert "BatchNorm" not in outcome.out.split("modules")[0]
    assert "layers," in outcome.out.splitlines()[-1]


def test_layers_come_in_the_order_in_which_they_run(
    run_ics: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_nets_listed.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.late = nn.Linear(3, 2)\n"
        "        self.norm = nn.BatchNorm1d(3)\n"
        "        self.early = nn.Linear(4, 3)\n"
        "    def forward(self, x):\n"
        "        return self.late(self.norm(self.early(x)))\n"
    )
    monkeypatch.chdir(tmp_path)
    lines = run_ics("layers", "own_nets_listed:Net", "--input-shape", "4").out.splitlines()
    assert [line.split()[1] for line in lines[1:-1]] == ["early", "late"]
    assert lines[1].endswith("early + norm")
    assert lines[-1] == "2 layers, 29 parameters"
    lines = run_ics("layers", "own_nets_listed:Net", "--input-shape", "4", "--grouping", "leaf").out.splitlines()
    assert [line.split()[1] for line in lines[1:-1]] == ["early", "norm", "late"]


def test_a_frame_of_steps_has_no_gaps(runs: Path) -> None:
    steps = ics.open_run(runs / "standard-0").table("steps", columns=["step"])
    pd.testing.assert_series_equal(steps["step"], pd.Series(range(4), name="step"), check_dtype=False)
