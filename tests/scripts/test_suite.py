"""The benchmark suite's own arithmetic, and that every way it times trains the same net the same way."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch

import ics
from ics.errors import SelectionError
from scripts.bench.suite import __main__ as command
from scripts.bench.suite import disk, page, targets, timed
from scripts.bench.suite.all_ways import all_ways, plain
from scripts.bench.suite.ics_ways import FLUSH_EVERY
from scripts.bench.suite.nets import NETS, Training
from scripts.bench.suite.rivals import RIVALS, leaves
from scripts.bench.suite.rows import read_rows, write_rows
from scripts.bench.suite.stages import STAGES, Stage
from scripts.bench.suite.timed import summary, time_stage
from scripts.bench.suite.ways import Running, Way

SUITE = Path(disk.__file__).parent
TINY = NETS["tiny"]


def row(net: str, stage: str, way: str, ratio: float, **more: object) -> dict[str, object]:
    """A row as `timed.summary` makes it."""
    usual = {"low": ratio - 0.01, "high": ratio + 0.01, "rounds": 5, "steps_per_round": 1, "milliseconds": 500 * ratio}
    about = {"cpu": "some", "cores": 2, "threads": 2, "torch": "2", "load_average": 0.1, "date": "2026-01-01"}
    extra = {"bytes_per_record": 5000.0, "writing_ms": None, "version": "1.0", "reason": None}
    return {"net": net, "stage": stage, "way": way, "ratio": ratio, **usual, **extra, **about, **more}


def suite_rows(**changed: float) -> pd.DataFrame:
    ratios = {"light": 1.02, "histograms": 1.06, "gradients": 1.08, "hooks": 1.7, "torchlens": 3.6} | changed
    rows = [row("vgg16_bn", stage, "plain", 1.0) for stage in ("ics", "all")]
    rows += [row("vgg16_bn", "ics", name, ratios[name]) for name in ("light", "gradients")]
    rows += [row("vgg16_bn", "all", name, ratio) for name, ratio in ratios.items()]
    rows += [row("vgg16_bn", "disk", "light", np.nan, bytes_per_record=19_000.0, writing_ms=10.0, steps_per_round=None)]
    return pd.DataFrame(rows)


def test_writing_is_added_where_a_round_held_none_of_it() -> None:
    found = targets.with_writing(suite_rows())
    light = targets.pick(found, "vgg16_bn", "ics", "light")
    assert light is not None
    assert light["ratio"] == pytest.approx(1.02 + 10 / 500)
    assert light["high"] == pytest.approx(1.03 + 10 / 500)
    gradients = targets.pick(found, "vgg16_bn", "ics", "gradients")
    assert gradients is not None
    assert gradients["ratio"] == 1.08


def test_a_block_that_held_its_writing_stays_as_it_is() -> None:
    rows = suite_rows()
    rows["steps_per_round"] = 200
    light = targets.pick(targets.with_writing(rows), "vgg16_bn", "ics", "light")
    assert light is not None
    assert light["ratio"] == 1.02


@pytest.mark.parametrize(("ratio", "met"), [(1.05, True), (1.0501, False)])
def test_a_target_is_met_up_to_its_limit(ratio: float, met: bool) -> None:
    aim = targets.Target("some", "vgg16_bn", "ics", "light", 1.05)
    rows = pd.DataFrame([row("vgg16_bn", "ics", "light", ratio)])
    assert [result.met for result in targets.target_results(rows, [aim])] == [met]


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert {result.met for result in targets.target_results(pd.DataFrame())} == {None}
    rows = pd.DataFrame([row("vgg16_bn", "ics", "light", np.nan)])
    assert {result.met for result in targets.target_results(rows)} == {None}


def test_every_target_names_a_way_that_its_stage_times() -> None:
    for target in targets.TARGETS:
        if target.stage in STAGES:
            chosen = STAGES[target.stage].chosen(all_ways(), [], NETS[target.net])
            assert target.way in chosen, target


def test_a_tool_is_held_against_the_way_that_records_as_much() -> None:
    found = {one.rival: one for one in targets.contests(targets.with_writing(suite_rows(hooks=1.05)), all_ways())}
    assert set(found) == {"hooks", "torchlens"}
    assert (found["hooks"].own, found["hooks"].slower) == ("histograms", False)
    assert (found["torchlens"].own, found["torchlens"].slower, found["torchlens"].clear) == ("light", True, True)


def test_the_page_says_what_the_rows_say() -> None:
    good, bad = (page.page(suite_rows(light=ratio), pd.DataFrame()) for ratio in (1.02, 1.4))
    assert "| 1.05 | 1.040 (1.030 to 1.050) | met" in good
    assert "| 1.05 | 1.420 (1.410 to 1.430) | **missed**" in bad
    assert "in this" not in page.page(pd.DataFrame(), pd.DataFrame())
    assert "**Missed**: hand-written hooks" in page.page(suite_rows(hooks=1.03), pd.DataFrame())
    assert "**Missed**" not in good


def test_rows_survive_the_csv(tmp_path: Path) -> None:
    write_rows(tmp_path / "suite_vgg16_bn_ics.csv", suite_rows().to_dict("records"))
    write_rows(tmp_path / "suite_vgg16_bn_ics_raw.csv", [{"way": "plain", "seconds": 1.0}])
    again = read_rows(tmp_path, "suite_*.csv")
    assert page.page(again, pd.DataFrame()) == page.page(suite_rows(), pd.DataFrame())


def test_what_is_recorded_at_every_10th_step_needs_a_block_of_ten() -> None:
    ways = all_ways()
    assert "light_10" in STAGES["ics"].chosen(ways, [], NETS["mlp"])
    assert "light_10" not in STAGES["ics"].chosen(ways, [], NETS["vgg16_bn"])
    assert list(STAGES["all"].chosen(ways, ["hooks"], TINY)) == ["plain", "hooks"]
    with pytest.raises(SelectionError, match="hooks"):
        STAGES["all"].chosen(ways, ["hoks"], TINY)


def test_every_way_trains_the_same(tmp_path: Path) -> None:
    reference = Training(TINY, tmp_path)
    for _ in range(3):
        reference.step()
    for name in ("plain_again", "idle", "light", "standard_10", "full", "hooks"):
        training = Training(TINY, tmp_path / name)
        with all_ways()[name].start(training) as running:
            for _ in range(3):
                running.step()
            running.settle()
        for ours, theirs in zip(
            training.model.state_dict().values(), reference.model.state_dict().values(), strict=True
        ):
            assert torch.equal(ours, theirs), name


def test_the_hooks_record_every_leaf_module_rightly(tmp_path: Path) -> None:
    training = Training(TINY, tmp_path)
    outputs: dict[str, np.ndarray] = {}
    with RIVALS["hooks"].start(training) as running:
        for name, module in leaves(training.model).items():
            module.register_forward_hook(lambda m, i, y, name=name: outputs.update({name: y.detach().numpy().copy()}))
        running.step()
    (line,) = (tmp_path / "hooks.jsonl").read_text().splitlines()
    layers = json.loads(line)["layers"]
    assert layers.keys() == outputs.keys()
    for name, values in outputs.items():
        assert layers[name]["mean"] == pytest.approx(values.astype(np.float64).mean(), abs=1e-6)
        assert layers[name]["std"] == pytest.approx(values.astype(np.float64).std(ddof=1), rel=1e-5)
        assert sum(layers[name]["histogram"]) == values.size


def test_a_tool_that_cannot_run_leaves_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    @contextmanager
    def broken(training: Training) -> Iterator[Running]:
        yield Running(lambda: int("three"))

    ways = {"plain": all_ways()["plain"], "hooks": RIVALS["hooks"], "broken": Way("broken", "nothing", broken)}
    stage = Stage(tuple(ways), 2, 2)
    rows = {
        str(found["way"]): found
        for found in summary(time_stage(stage, TINY, ways, tmp_path, rounds=2), stage, TINY, ways)
    }
    assert rows["broken"]["reason"].startswith("ValueError: invalid literal")
    assert rows["plain"]["ratio"] == 1.0
    assert rows["hooks"]["ratio"] > 0.0
    assert rows["hooks"]["reason"] == ""
    steps = len((tmp_path / "hooks" / "hooks.jsonl").read_text().splitlines())
    assert rows["hooks"]["bytes_per_record"] == (tmp_path / "hooks" / "hooks.jsonl").stat().st_size / steps


@contextmanager
def told(training: Training, did: list[str]) -> Iterator[Running]:
    """A way that says what is asked of it and trains nothing."""
    yield Running(lambda: did.append("step"), lambda: did.append("settle"))


@pytest.mark.parametrize(("kind", "block", "counted"), [("ics", 200, True), ("ics", 20, False), ("rival", 2, True)])
def test_writing_is_waited_for_inside_a_sample_that_holds_whole_turns_of_it(
    kind: Literal["ics", "rival"], block: int, counted: bool, tmp_path: Path
) -> None:
    did: list[str] = []
    way = Way("some", "nothing", partial(told, did=did), kind)
    with ExitStack() as stack:
        run = timed._begin(way, TINY, block, tmp_path, stack)
        before = 100 if block == 200 else 1 + block  # 100: the turn at step 200 is then in the middle of a block
        assert did == ["step"] * before + ["settle"]
        did.clear()
        run.sample()
    assert did == ["step"] * block + ["settle"] * counted


def test_nothing_is_left_to_write_after_a_block_that_turned_a_page(tmp_path: Path) -> None:
    with ExitStack() as stack:
        run = timed._begin(all_ways()["light"], TINY, FLUSH_EVERY, tmp_path, stack)
        run.sample()
        written = ics.open_run(tmp_path / "run").table("steps")["step"]
        assert list(written[:FLUSH_EVERY]) == list(range(FLUSH_EVERY))


def test_what_a_stage_takes_is_told_before_and_no_round_begins_after_the_limit(tmp_path: Path) -> None:
    ways = {name: all_ways()[name] for name in ("plain", "plain_again")}
    told: list[float] = []
    stage = Stage(tuple(ways), 50, 50)
    found = time_stage(stage, TINY, ways, tmp_path, rounds=50, seconds=1e-6, expected=told.append)
    assert told == [1e-6]
    assert len(found.seconds["plain"]) == 2


def test_a_reason_is_made_of_what_was_measured() -> None:
    rows = suite_rows(light=1.4)
    aim = targets.Target("some", "vgg16_bn", "ics", "light", 1.05, note="a fact")
    (result,) = targets.target_results(targets.with_writing(rows), [aim])
    assert result.why == (
        "it adds 2.1e+02 ms to a step of 500 ms; laying out and writing the rows of a recorded step takes 10 ms; a fact"
    )
    idle = row("vgg16_bn", "disk", "light", np.nan, writing_ms=0.01, steps_per_round=None, step_us=7.1)
    rows = pd.concat([rows[rows["stage"] != "disk"], pd.DataFrame([idle]).dropna(axis="columns")])
    (result,) = targets.target_results(targets.with_writing(rows), [aim])
    assert "takes 7.1 microseconds" in result.why


def test_a_stage_written_lately_is_left_out_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    measured: list[tuple[str, str]] = []
    monkeypatch.setattr(command, "_measure", lambda name, part, options: measured.append((name, part)))
    (tmp_path / "suite_mlp_ics.csv").write_text("net\n")
    arguments = ["suite", "--nets", "mlp,vgg16_bn", "--stages", "idle,ics", "--to", str(tmp_path)]
    for resume, wanted in (([], ["idle", "ics"]), (["--resume", "5"], ["idle"])):
        monkeypatch.setattr(sys, "argv", arguments + resume)
        measured.clear()
        command.main()
        assert measured == [*(("mlp", part) for part in wanted), ("vgg16_bn", "ics")]
    assert "suite_mlp_ics.csv is younger than 5 minutes, and stays" in capsys.readouterr().err


def test_a_net_that_a_tool_is_not_tried_on_is_one_of_the_suite() -> None:
    assert {net for way in all_ways().values() for net in way.left_out} <= set(NETS)


def test_a_failure_of_ics_is_no_row_but_an_error(tmp_path: Path) -> None:
    @contextmanager
    def broken(training: Training) -> Iterator[Running]:
        raise ValueError("ours")
        yield Running(training.step)

    ways = {"plain": Way("plain", "nothing", plain, "plain", 0), "ours": Way("ours", "nothing", broken, "ics")}
    with pytest.raises(ValueError, match="ours"):
        time_stage(Stage(tuple(ways), 1, 1), TINY, ways, tmp_path, rounds=1)


def test_bytes_of_one_step_more_are_a_slope(tmp_path: Path) -> None:
    @contextmanager
    def writes(training: Training) -> Iterator[Running]:
        yield Running(lambda: setattr(training, "steps", training.steps + 1))
        training.folder.mkdir()
        (training.folder / "file").write_bytes(b"x" * (10_000 + 70 * training.steps))

    (found,) = disk.disk_rows(TINY, {"some": Way("some", "bytes", writes)}, tmp_path)
    assert found["bytes_per_record"] == 70.0


def test_peers_are_pinned_and_no_host_is_named() -> None:
    lines = [line.partition("#")[0].strip() for line in (SUITE / "requirements.txt").read_text().splitlines()]
    pinned = dict(line.split("==") for line in lines if line)
    assert {way.package for way in RIVALS.values() if way.package} <= set(pinned)
    assert not re.search(r"://|--", "".join(lines))


@pytest.mark.parametrize("name", ["rows", "page", "disk"])
def test_examples_of_the_suite(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"scripts.bench.suite.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
