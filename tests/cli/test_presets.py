"""`ics train --preset` and `--budget`."""

from __future__ import annotations

from pathlib import Path

import pytest

import ics
from ics.experiments import RunConfig
from ics.recording.presets import PRESETS
from tests.cli.conftest import Command

SHORT = ("train", "digits-mlp", "--norm", "batch", "--steps", 2, "--batch-size", 16)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_decides_instruments_and_columns(preset: str, run_ics: Command, tmp_path: Path) -> None:
    assert run_ics(*SHORT, "--preset", preset, "--to", tmp_path / "run").status == 0
    run = ics.open_run(tmp_path / "run")
    assert set(run.tables) == {"steps", *PRESETS[preset].schedules}
    assert run.info["instruments"] == {name: str(when) for name, when in PRESETS[preset].schedules.items()}
    assert run.table("activations")["channel_mean"].notna().any() == (preset == "full")
    assert RunConfig.from_dict(run.info["config"]).preset == preset


def test_every_changes_the_schedules_of_a_preset(run_ics: Command, tmp_path: Path) -> None:
    options = ("--preset", "standard", "--every", "gradient_line=0", "--every", "activations=1")
    assert run_ics(*SHORT, *options, "--to", tmp_path / "run").status == 0
    run = ics.open_run(tmp_path / "run")
    assert "gradient_line" not in run.tables
    assert run.table("activations")["step"].nunique() == 2


def test_a_budget_is_kept_in_the_run(run_ics: Command, tmp_path: Path) -> None:
    assert run_ics(*SHORT, "--budget", 0.02, "--to", tmp_path / "run").status == 0
    run = ics.open_run(tmp_path / "run")
    assert run.info["budget"]["target"] == run.info["config"]["budget"] == 0.02
    assert run.table("activations")["step"].tolist()[-1] == 0


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--preset", "lite"], "no preset is named 'lite'; did you mean 'light'"),
        (["--budget", "2"], "between 0 and 1, got 2.0; type budget=0.02"),
    ],
)
def test_a_mistake_is_one_sentence(options: list[str], part: str, run_ics: Command, tmp_path: Path) -> None:
    assert part in run_ics(*SHORT, *options, "--to", tmp_path / "run").mistake
