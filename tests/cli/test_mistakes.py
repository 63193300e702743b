"""Each mistake gets one sentence on stderr and exit status 2, never a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ics.cli.console import INTERRUPTED, run_command
from tests.cli.conftest import Command

SHORT = ("--steps", 2, "--batch-size", 16)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument"),
        (["train", "digits-mpl"], "no recipe is named 'digits-mpl'; did you mean 'digits-mlp'"),
        (["train", "digits-mlp", "--steps", "many"], "Invalid value for '--steps'"),
        (["train", "digits-mlp", "--stpes", "5"], "No such option"),
        (["train", "digits-mlp", "--steps", "0"], "steps is a whole number of at least 1, got 0"),
        (["train", "digits-mlp", "--seeds", "0"], "--seeds is at least 1, got 0"),
        (["train", "digits-mlp", "--norm", "layr"], "did you mean"),
        (["train", "digits-mlp", "--data", "images:nowhere"], "nowhere"),
        (["train", "digits-mlp", "--data", "imagenet"], "imagenet"),
        (["train", "digits-mlp", "--device", "abacus"], "abacus"),
        (["train", "digits-mlp", "--model", "mpl"], "did you mean 'mlp'"),
        (["train", "digits-mlp", "--model", "no_such_package:build"], "no_such_package"),
        (["train", "digits-mlp", "--every", "gradient_lin=5"], "did you mean 'gradient_line'"),
        (["train", "digits-mlp", "--every", "sometimes"], "got 'sometimes'"),
        (["train", "digits-mlp", "--batch-size", "100000"], "100000"),
        (["train", "digits-mlp", "--layers", "conv*"], "conv*"),
        (["demo", "--seeds", "0"], "at least 1, got 0"),
        (["layers", "resnet81"], "did you mean 'resnet18'"),
        (["layers", "mlp", "--input-shape", "3;32"], "type e.g. --input-shape 3,32,32"),
        (["layers", "vgg11", "--input-shape", "3,8,8"], "32"),
        (["layers", "mlp", "--grouping", "pairs"], "'pairs' is not one of"),
        (["layers", "collections:OrderedDict"], "OrderedDict"),
        (["show", "nowhere"], "nowhere"),
        (["report", "nowhere-*"], "nowhere-*"),
        (["compare", "nowhere", "elsewhere"], "nowhere"),
        (["schema", "gradient_shif"], "did you mean 'gradient_shift'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], part: str, run_ics: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in run_ics(*arguments).mistake


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--table", "gradient_shif"], "did you mean 'gradient_shift'"),
        (["--table", "gradient_shift", "--columns", "step,shift_cosin"], "did you mean 'shift_cosine'"),
        (["--table", "gradient_shift", "--where", "shift_cosin>0"], "did you mean 'shift_cosine'"),
        (["--table", "gradient_shift", "--where", "step"], "type e.g. 'step>=100'"),
        (["--columns", "step"], "type --table too"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_run_does_not_hold_is_named(options: list[str], part: str, runs: Path, run_ics: Command) -> None:
    assert part in run_ics("show", runs / "standard-0", *options).mistake


def test_a_folder_that_is_no_run(run_ics: Command, tmp_path: Path) -> None:
    assert str(tmp_path) in run_ics("show", tmp_path).mistake


def test_a_file_where_a_folder_belongs(run_ics: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in run_ics("show", tmp_path / "file").mistake
    assert "file" in run_ics("train", "digits-mlp", *SHORT, "--to", tmp_path / "file" / "run").mistake


@pytest.mark.filterwarnings("default::ics.MeasurementWarning")
def test_a_damaged_part_is_named_and_can_be_left_out(runs: Path, run_ics: Command, tmp_path: Path) -> None:
    copy = shutil.copytree(runs / "standard-0", tmp_path / "copy")
    (part,) = (copy / "gradient_shift").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-100])
    sentence = run_ics("show", copy, "--table", "gradient_shift").mistake
    assert part.name in sentence
    assert "--skip-damaged" in sentence
    outcome = run_ics("show", copy, "--table", "gradient_shift", "--skip-damaged")
    assert outcome.status == 0
    assert outcome.err.startswith("ics: note: left out a part and its rows")
    assert run_ics("show", copy, "--table", "steps").status == 0


def test_a_run_of_a_newer_schema_says_what_it_needs(runs: Path, run_ics: Command, tmp_path: Path) -> None:
    copy = shutil.copytree(runs / "standard-0", tmp_path / "copy")
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(info | {"schema_version": 999}))
    assert "999" in run_ics("show", copy).mistake


def test_a_cut_short_run_json(runs: Path, run_ics: Command, tmp_path: Path) -> None:
    copy = shutil.copytree(runs / "standard-0", tmp_path / "copy")
    (copy / "run.json").write_text((copy / "run.json").read_text()[:50])
    assert "run.json" in run_ics("show", copy).mistake


def test_a_report_that_cannot_be_written(runs: Path, run_ics: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert (
        "file" in run_ics("report", runs / "standard-0", "--to", tmp_path / "file" / "page.html").err.splitlines()[-1]
    )


def test_an_interrupted_command_says_that_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert run_command(interrupted) == INTERRUPTED == 130
    assert capsys.readouterr().err == "ics: interrupted; what was recorded until here is kept\n"


def test_ctrl_c_in_a_command_is_told(runs: Path, run_ics: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ics.store.open_run", interrupted)
    monkeypatch.setattr("ics.open_run", interrupted)
    outcome = run_ics("show", runs / "standard-0")
    assert outcome.status == INTERRUPTED
    assert outcome.err.splitlines()[-1] == "ics: interrupted; what was recorded until here is kept"


def test_an_error_of_the_programs_own_keeps_its_traceback() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(broken)
