"""What recording costs: the lines of the table against arithmetic by hand, the ways against what they record."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

import ics
from ics.errors import SelectionError, UsageError
from ics.experiments.benchmarking import overhead as module
from ics.experiments.benchmarking.overhead import INTERVALS, Cost, overhead
from ics.experiments.benchmarking.peak_memory import Memory
from ics.experiments.benchmarking.ways import WAYS, Setting, TimedTraining, chosen

TINY = Setting(label="tiny", model="mlp", norm="batch", input_shape=(6,), hidden=(5,), batch_size=4, device="cpu")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of a step and few rows, which say nothing about cost and all about the table."""
    monkeypatch.setattr(module, "_SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(module, "_WRITTEN_SECONDS", 0.0)


def table(costs: list[Cost]) -> pd.DataFrame:
    return pd.DataFrame([asdict(cost) for cost in costs]).set_index(["way", "interval"])


def test_a_line_for_every_way_and_interval(quick: None) -> None:
    seen = []
    costs = overhead(TINY, rounds=3, memory=False, progress=lambda *arguments: seen.append(arguments))
    frame = table(costs)
    assert list(frame.index) == [("plain", 0), ("idle", 0), *((way, n) for way in WAYS[2:] for n in INTERVALS)]
    assert (frame["rounds"] == 3).all()
    assert frame.loc[("plain", 0), ["ratio", "low", "high"]].tolist() == [1, 1, 1]
    assert (frame["low"] <= frame["ratio"]).all()
    assert (frame["ratio"] <= frame["high"]).all()
    assert frame["derived"].tolist() == [False, False, *[False, True, True] * (len(WAYS) - 2)]
    size = frame["bytes_per_step"].xs(1, level="interval")
    assert size["light"] < size["standard"] < size["full"]
    assert frame["added_bytes"].isna().all()
    assert seen[0] == ("tiny", 1, 8)
    assert seen[-1] == ("tiny", 8, 8)


def test_intervals_are_timed_if_asked_for(quick: None) -> None:
    frame = table(overhead(TINY, rounds=2, memory=False, measure_all=True))
    assert not frame["derived"].any()


def test_ratios_are_of_a_round_with_writing_and_the_intervals_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    seconds = {name: rng.uniform(1, 2, 9).tolist() for name in ("plain/0", "idle/0", *(f"{way}/1" for way in WAYS[2:]))}
    written = dict.fromkeys(WAYS[1:], (0.25, 1000.0)) | {"idle": (0.5, 1.0)}
    peaks = {"plain": Memory(50, 150), "full": Memory(40, 240)}
    frame = table(list(module._lines(TINY, seconds, written, peaks)))
    plain, idle, full = (np.array(seconds[name]) for name in ("plain/0", "idle/0", "full/1"))
    assert frame.loc[("idle", 0), "ratio"] == pytest.approx(np.median((idle + 0.5) / plain))
    assert frame.loc[("full", 1), "ratio"] == pytest.approx(np.median((full + 0.25) / plain))
    assert frame.loc[("full", 10), "ratio"] == pytest.approx(np.median((0.9 * idle + 0.1 * (full + 0.25)) / plain))
    assert frame.loc[("full", 100), "ratio"] == pytest.approx(np.median((0.99 * idle + 0.01 * (full + 0.25)) / plain))
    assert frame.loc[("plain", 0), "plain_seconds"] == np.median(plain)
    assert frame.loc[("full", 1), "added_bytes"] == 200
    assert frame.loc[("full", 1), "added_ratio"] == 2.0
    assert frame["added_bytes"].notna().sum() == 4


@pytest.mark.parametrize(
    ("way", "tables"),
    [
        ("idle", {"steps"}),
        ("light", {"steps", "activations"}),
        ("standard", {"steps", "activations", "gradients", "normalization"}),
        ("full", {"steps", "activations", "gradients", "normalization"}),
        ("gradient_shift", {"steps", "gradient_shift"}),
    ],
)
def test_a_way_records_what_its_name_says(way: str, tables: set[str], tmp_path) -> None:
    training = TimedTraining(TINY)
    with training.recorder(way, 1, tmp_path / "run") as recorder:
        training.recorded(recorder)
    assert set(ics.open_run(tmp_path / "run").tables) == tables


def test_idle_holds_every_instrument_and_none_is_ever_due() -> None:
    instruments = chosen("idle", 1)["instruments"]
    assert {"gradient_shift", "curvature", "activations"} <= set(instruments)
    assert not any(when.due(step) for when in instruments.values() for step in range(1000))


def test_bytes_are_those_that_a_further_measured_step_adds(tmp_path) -> None:
    training = TimedTraining(TINY)
    _, size = module._written(training, "full", tmp_path, step_seconds=1 / 40)
    small, large = (module._write(training, "full", num, tmp_path / f"by-hand-{num}")[1] for num in (1, 40))
    assert size == pytest.approx((large - small) / 39, rel=0.1)
    assert size > 0


def test_peak_memory_is_that_of_measured_steps(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def here(prepare: partial, *, device: object) -> Memory:
        calls.append(prepare.args[1])
        prepare()()  # in this process: another one would import torch once more
        return Memory(1, 2)

    monkeypatch.setattr(module, "peak_memory", here)
    assert [module.peak_of(TINY, way).added for way in module.WITH_MEMORY] == [1, 1, 1]
    assert calls == list(module.WITH_MEMORY)


@pytest.mark.parametrize(
    ("changes", "error", "part"),
    [
        ({"model": "mpl"}, SelectionError, "did you mean 'mlp'"),
        ({"device": "abacus"}, UsageError, "abacus"),
        ({"model": "vgg11", "norm": "none", "hidden": None, "input_shape": (3, 8, 8)}, UsageError, "32"),
        ({"batch_size": 1}, UsageError, "cannot be trained on inputs of shape"),
    ],
)
def test_a_mistake_gets_one_sentence(changes, error, part: str) -> None:
    with pytest.raises(error, match=part):
        TimedTraining(replace(TINY, **changes))


def test_a_way_that_cannot_be_measured_is_a_mistake(tmp_path) -> None:
    training = TimedTraining(TINY)

    def fails() -> None:
        raise RuntimeError("no double backward")

    with pytest.raises(UsageError, match="full cannot be measured on tiny: RuntimeError: no double backward"):
        module._steps_of_a_sample(fails, "full", training)


def test_a_sample_is_long_beside_the_clock() -> None:
    training = TimedTraining(TINY)
    assert module._steps_of_a_sample(lambda: None, "plain", training) == module._MOST_STEPS
    assert module._steps_of_a_sample(lambda: time.sleep(0.06), "plain", training) == 1
