"""Commands that read runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ics
from ics.cli.console import print_frame
from ics.schema import TABLES
from tests.cli.conftest import Command

ROOT = Path(__file__).parents[2]

# Puts a finder in front of all others that makes `import torch` fail, then runs `ics` on the arguments.
WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, NoTorch())
from ics.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_show_prints_state_tables_layers_and_instruments(runs: Path, run_ics: Command) -> None:
    outcome = run_ics("show", runs / "batchnorm-0")
    assert outcome.status == 0
    assert outcome.out.startswith(f"{runs / 'batchnorm-0'}: completed")
    run = ics.open_run(runs / "batchnorm-0")
    for table in run.tables:
        assert f"{table}: {len(run.table(table))} rows, steps 0 to 3" in outcome.out
    for layer in run.layers["name"]:
        assert layer in outcome.out
    assert "gradient_shift every(1)" in outcome.out


def test_show_prints_the_notes_of_a_run(runs: Path, run_ics: Command, tmp_path: Path) -> None:
    copy = shutil.copytree(runs / "standard-0", tmp_path / "copy")
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(info | {"notes": ["gradient_line switched off at step 7"]}))
    assert "Note: gradient_line switched off at step 7" in run_ics("show", copy).out


def test_show_prints_the_rows_asked_for(runs: Path, run_ics: Command) -> None:
    options = ["--table", "gradient_shift", "--columns", "step,layer,shift_l2", "--where", "parameters=weight"]
    outcome = run_ics("show", runs / "standard-0", *options, "--where", "step in 1,2", "--rows", 5)
    frame = ics.open_run(runs / "standard-0").table("gradient_shift")
    wanted = frame[(frame["parameters"] == "weight") & frame["step"].isin([1, 2])]
    header, *lines, more = outcome.out.splitlines()
    assert header.split() == ["step", "layer", "shift_l2"]
    assert [line.split()[:2] for line in lines] == wanted[["step", "layer"]].astype(str).to_numpy().tolist()[:5]
    assert more == f"... {len(wanted) - 5} more rows"


def test_show_says_so_where_no_row_is_left(runs: Path, run_ics: Command) -> None:
    outcome = run_ics("show", runs / "standard-0", "--table", "steps", "--where", "step>99", "--where", "loss>0")
    assert (outcome.status, outcome.out) == (0, "standard-0 has no rows of steps for which step>99 and loss>0\n")


def test_show_says_so_where_a_table_was_not_recorded(runs: Path, run_ics: Command) -> None:
    assert run_ics("show", runs / "standard-0", "--table", "curvature").out == "standard-0 has no rows of curvature\n"


def test_show_leaves_out_columns_without_values(runs: Path, run_ics: Command) -> None:
    header = run_ics("show", runs / "standard-0", "--table", "gradient_line").out.splitlines()[0].split()
    frame = ics.open_run(runs / "standard-0").table("gradient_line")
    assert header == [name for name in frame.columns if frame[name].notna().any()]


def test_cells_are_short_and_null_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"a": [1.23456789, None], "b": [np.arange(5), None], "c": [7, 8], "d": ["x", pd.NA]})
    print_frame(frame)
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["1.235", "[0,", "1,", "2,", "3,", "...]", "(5)", "7", "x"]
    assert second.split() == ["null", "null", "8", "null"]


def test_report_writes_one_page_of_folders_and_patterns(runs: Path, run_ics: Command, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    outcome = run_ics("report", runs / "standard-0", f"{runs}/batchnorm-*", "--to", page)
    assert (outcome.status, outcome.out) == (0, f"Report: {page}\n")
    html = page.read_text()
    assert "standard" in html
    assert "BatchNorm" in html


def test_compare_prints_a_row_per_measure(runs: Path, run_ics: Command) -> None:
    outcome = run_ics("compare", f"{runs}/standard-*", f"{runs}/batchnorm-*")
    assert outcome.status == 0
    expected = ics.analysis.compare(ics.open_runs(f"{runs}/standard-*"), ics.open_runs(f"{runs}/batchnorm-*"))
    for name, ratio in zip(expected["measure"], expected["ratio"], strict=True):
        line, *_ = [line for line in outcome.out.splitlines() if line.split()[0] == name]
        assert ("null" if ratio != ratio else f"{ratio:.4g}") in line.split()
    assert "shift_cosine: may be negative" in outcome.out


def test_schema_prints_every_column(run_ics: Command) -> None:
    outcome = run_ics("schema")
    assert outcome.status == 0
    for table in TABLES.values():
        assert f"{table.name}: one row per {table.row}" in outcome.out
        for column in table.columns:
            assert f"  {column.name}" in outcome.out


def test_schema_of_one_table(run_ics: Command) -> None:
    out = run_ics("schema", "curvature").out
    assert "batch_sharpness: float64, loss/weight^2" in out
    assert "gradient_shift" not in out


def run_without_torch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120, check=False)


@pytest.mark.parametrize(
    "arguments",
    [["show", "standard-0", "--table", "activations"], ["compare", "standard-0", "batchnorm-0"], ["schema"]],
    ids=lambda arguments: arguments[0],
)
def test_reading_works_on_a_machine_without_torch(runs: Path, arguments: list[str]) -> None:
    result = run_without_torch(*arguments, cwd=runs)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_drawing_works_on_a_machine_without_torch(runs: Path, tmp_path: Path) -> None:
    result = run_without_torch("report", "*-*", "--to", str(tmp_path / "page.html"), cwd=runs)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_the_finder_does_forbid_torch(tmp_path: Path) -> None:
    assert "No module named 'torch'" in run_without_torch("recipes", cwd=tmp_path).stderr


def test_a_reader_that_closes_the_pipe_is_no_mistake() -> None:
    # `ics schema | head`: the pipe is closed before the command has printed all.
    command = f"{sys.executable} -m ics schema | head -c 10"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.stderr == ""
