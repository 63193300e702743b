"""`ics bench`: the table, the CSV and the figure on a tiny model; mistakes in one sentence."""

from __future__ import annotations

import textwrap
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

from ics.experiments.benchmarking import overhead
from ics.experiments.benchmarking.overhead import Cost
from tests.cli.conftest import Command

NET = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, num_classes))
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A net of the user's own in the current folder, and samples of a step."""
    monkeypatch.chdir(tmp_path)
    Path("bench_net.py").write_text(textwrap.dedent(NET))
    monkeypatch.setattr(overhead, "_SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(overhead, "_WRITTEN_SECONDS", 0.0)


OPTIONS = ("--input-shape", "3,2,2", "--batch", 4, "--rounds", 2, "--no-memory", "--device", "cpu")


def test_a_table_a_csv_and_a_figure(quick: None, run_ics: Command) -> None:
    outcome = run_ics("bench", "bench_net:build", *OPTIONS, "-o", "bench.png", "--csv", "bench.csv")
    assert outcome.status == 0, outcome.err
    assert "bench_net:build, batch 4: a plain step takes" in outcome.out
    lines = {line.split("  ")[0].strip(): line for line in outcome.out.splitlines()}
    frame = pd.read_csv("bench.csv")
    assert list(frame.columns) == [field.name for field in fields(Cost)]
    for way, rows in frame.groupby("way"):
        medians = [f"{ratio:.3f}" if ratio < 2 else f"{ratio:.2f}" for ratio in rows["ratio"]]
        assert all(median in lines[str(way).replace("_", " ")] for median in medians)
    assert "i + (m - i) / n" in outcome.out
    assert "threads" in outcome.out
    assert Path("bench.png").read_bytes().startswith(b"\x89PNG")


def test_every_interval_can_be_timed(quick: None, run_ics: Command) -> None:
    outcome = run_ics("bench", "bench_net:build", *OPTIONS, "--measure-all", "--cpu-time", "--csv", "bench.csv")
    assert outcome.status == 0, outcome.err
    assert "seconds of CPU" in outcome.out
    assert "busy" not in outcome.err
    assert "Every interval was timed." in outcome.out
    assert not pd.read_csv("bench.csv")["derived"].any()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["resnet81"], "did you mean 'resnet18'"),
        (["mlp", "--rounds", "1"], "--rounds is at least 2"),
        (["mlp", "--batch", "0"], "--batch is at least 1, got 0"),
        (["mlp", "--seconds", "0"], "--seconds is above 0"),
        (["mlp", "--threads", "0"], "--threads is at least 1, got 0"),
        (["mlp", "--threads", "2", "--cpu-time"], "--cpu-time is of one thread, got --threads 2"),
        (["mlp", "--device", "abacus"], "abacus"),
        (["mlp", "--norm", "layr"], "norm"),
        (["mlp", "--input-shape", "3;32"], "type e.g. --input-shape 3,32,32"),
        (["mlp", "--csv", "nowhere/bench.csv"], "there is no folder nowhere"),
        (["mlp", "-o", "bench.abacus"], "abacus"),
        (["--norm", "batch"], "belong to a MODEL"),
        (["vgg11", "--input-shape", "3,8,8"], "32"),
        (["no_such_package:build"], "no_such_package"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence(arguments: list[str], part: str, quick: None, run_ics: Command) -> None:
    outcome = run_ics("bench", *arguments, "--no-memory")
    assert outcome.status == 2
    (sentence,) = [line for line in outcome.err.splitlines() if not line.startswith("ics: note")]
    assert part in sentence
    assert "Traceback" not in outcome.err
