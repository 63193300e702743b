"""Sweeps in this process, configurations as jobs, and what is reused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ics
from ics.errors import UsageError
from ics.experiments import RunConfig, recipe
from ics.experiments.sweep import folder_name, job_of, jobs_of, run_jobs
from tests.experiments.sweep.jobs import job, tries


def tiny(**changes: object) -> RunConfig:
    """Two steps on digits, nothing measured."""
    settings = {"steps": 2, "batch_size": 16, "hidden": (4,), "instruments": {}, "evaluate_every": 0}
    return recipe("digits-mlp", **(settings | changes))


def started(folder: Path) -> str:
    """What tells a run from one that replaced it."""
    return f"{ics.open_run(folder).info['started']} {(folder / 'run.json').stat().st_ino}"


def test_results_come_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    jobs = [job(tmp_path, how) for how in ("fine", "raise", "mistake", "exit", "nothing", "well")]
    results = run_jobs(jobs, workers=1, progress=lambda *what: told.append(what))
    assert [result.name for result in results] == ["fine", "raise", "mistake", "exit", "nothing", "well"]
    assert [result.state for result in results] == ["done", "failed", "failed", "failed", "failed", "done"]
    assert [result.sentence for result in results[:4]] == [
        None,
        "ZeroDivisionError: three apples for nobody",
        "expected apples, got pears",
        "SystemExit: 3",
    ]
    assert "holds no complete result" in str(results[4].sentence)
    assert told == [("runs", done, 6) for done in range(7)]
    assert (tmp_path / "fine" / "done").read_text().split()[0] == str(os.getpid())


def test_a_traceback_is_kept_of_errors_that_are_no_mistakes(tmp_path: Path) -> None:
    broken, mistaken = run_jobs([job(tmp_path, "raise"), job(tmp_path, "mistake")], workers=1)
    assert "in behave" in str(broken.traceback)
    assert mistaken.traceback is None


def test_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "fine"), job(tmp_path, "raise")]
    run_jobs(jobs, workers=1)
    again = run_jobs(jobs, workers=1)
    assert [(one.state, one.attempts) for one in again] == [("reused", 0), ("failed", 1)]
    assert (tries(tmp_path / "fine"), tries(tmp_path / "raise")) == (1, 2)
    run_jobs(jobs, workers=1, reuse=False)
    assert tries(tmp_path / "fine") == 2


def test_an_interrupt_passes_and_leaves_what_is_finished(tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    jobs = [job(tmp_path, "fine"), job(tmp_path, "well")]
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, workers=1, progress=interrupt)
    assert [one.state for one in run_jobs(jobs, workers=1)] == ["reused", "done"]


def test_no_jobs_have_no_results() -> None:
    assert run_jobs([]) == []


@pytest.mark.parametrize(("settings", "part"), [({"workers": 0}, "workers is"), ({"retries": -1}, "retries is")])
def test_a_number_that_cannot_be_meant(settings: dict[str, int], part: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=part):
        run_jobs([job(tmp_path, "fine")], **settings)


def test_two_jobs_in_one_folder_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder of its own"):
        run_jobs([job(tmp_path, "fine", name="a"), job(tmp_path, "well", name="a")])


def test_without_ray_the_sentence_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install ray"):
        run_jobs([job(tmp_path, "fine")], cluster="local")


def test_importing_sweeps_imports_no_ray(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise AssertionError('ray was imported')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import ics, ics.experiments.sweep, ics.cli"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_folders_name_is_of_net_settings_and_seed() -> None:
    config = tiny(net="BN, lr 0.5")
    name = folder_name(config)
    assert name == folder_name(RunConfig.from_dict(json.loads(json.dumps(config.as_dict()))))
    assert name.startswith("BN-lr-0.5-")
    assert folder_name(config.replace(seed=12)) == name.removesuffix("-0") + "-12"
    others = [config.replace(net="BN; lr 0.5"), config.replace(learning_rate=0.2), config.replace(hidden=(4, 4))]
    assert len({name, *map(folder_name, others)}) == 4


def test_a_folders_name_does_not_depend_on_how_a_number_is_written() -> None:
    assert folder_name(tiny(learning_rate=1)) == folder_name(tiny(learning_rate=1.0))


def test_a_folders_name_outlives_new_settings() -> None:
    """A setting at its default is not part of the name, so one that is added tomorrow changes no name of today."""
    config = RunConfig(net="a", model="mlp", data="digits", steps=9, learning_rate=0.5, batch_size=32)
    text = '{"batch_size": 32.0, "data": "digits", "learning_rate": 0.5, "model": "mlp", "net": "a", "steps": 9.0}'
    assert folder_name(config) == f"a-{hashlib.sha256(text.encode()).hexdigest()[:8]}-0"


def test_equal_configurations_are_one_job(tmp_path: Path) -> None:
    assert [one.name for one in jobs_of([tiny(), tiny(), tiny(seed=1)], tmp_path)] == [
        folder_name(tiny()),
        folder_name(tiny(seed=1)),
    ]


def test_a_completed_run_is_reused_and_an_interrupted_one_replaced(tmp_path: Path) -> None:
    jobs = jobs_of([tiny(), tiny(seed=1)], tmp_path)
    assert [one.state for one in run_jobs(jobs, workers=1)] == ["done", "done"]
    before = [started(one.to) for one in jobs]
    info = json.loads((jobs[1].to / "run.json").read_text())
    (jobs[1].to / "run.json").write_text(json.dumps(info | {"state": "interrupted"}))
    assert [one.state for one in run_jobs(jobs, workers=1)] == ["reused", "done"]
    assert started(jobs[0].to) == before[0]
    assert ics.open_run(jobs[1].to).state == "completed"
    assert len(ics.open_run(jobs[1].to).table("steps")) == 2


def test_a_run_of_a_time_before_a_setting_is_that_run(tmp_path: Path) -> None:
    (one,) = jobs_of([tiny()], tmp_path)
    run_jobs([one], workers=1)
    info = json.loads((one.to / "run.json").read_text())
    del info["config"]["num_threads"], info["config"]["momentum"]
    (one.to / "run.json").write_text(json.dumps(info))
    assert not one.is_done()  # digits-mlp sets num_threads, so a run without it is another
    info["config"]["num_threads"] = 1
    (one.to / "run.json").write_text(json.dumps(info))
    assert one.is_done()


def test_settings_that_json_writes_as_lists_are_equal_still(tmp_path: Path) -> None:
    (one,) = jobs_of([tiny(hidden=[4], line_range=(1, 2))], tmp_path)
    run_jobs([one], workers=1)
    assert one.is_done()


def test_a_run_of_another_configuration_is_not_replaced(tmp_path: Path) -> None:
    to = tmp_path / "mine"
    run_jobs([job_of(tiny(), to)], workers=1)
    (refused,) = run_jobs([job_of(tiny(learning_rate=0.3), to)], workers=1)
    assert "holds a run of another configuration" in str(refused.sentence)
    (replaced,) = run_jobs([job_of(tiny(learning_rate=0.3), to, overwrite=True)], workers=1, reuse=False)
    assert replaced.ok
    assert ics.open_run(to).info["config"]["learning_rate"] == 0.3


def test_a_damaged_run_is_replaced(tmp_path: Path) -> None:
    (one,) = jobs_of([tiny()], tmp_path)
    run_jobs([one], workers=1)
    (one.to / "run.json").write_text("{")
    assert [again.state for again in run_jobs([one], workers=1)] == ["done"]
    assert one.is_done()


def test_a_job_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    (one,) = jobs_of([tiny()], tmp_path)
    run_jobs([one], workers=1, own_progress=lambda *what: told.append(what))
    assert told == [(one.name, 1, 2), (one.name, 2, 2)]
