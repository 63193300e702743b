"""Sweeps in processes: one that is killed is replaced, an interrupt closes runs, numbers are those of this process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ics
from ics.errors import UsageError
from ics.experiments.sweep import Job, JobResult, jobs_of, run_jobs
from tests.experiments.sweep.jobs import job, tries
from tests.experiments.sweep.test_training import tiny

ROOT = Path(__file__).parents[3]
SCRIPT = """\
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run in the background of a shell
from pathlib import Path
from ics.experiments.sweep import run_jobs
from tests.experiments.sweep.jobs import job
if __name__ == "__main__" or {unguarded}:
    run_jobs([job(Path(sys.argv[1]), how) for how in {jobs}], workers=2, retries={retries}, progress=print)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, JobResult]:
    """One sweep of everything that can happen, with two workers, since starting them takes the time."""
    hows = ("die once", "fine", "raise", "mistake", "exit", "nothing", "warn", "die")
    ended = run_jobs([job(folder, how) for how in hows], workers=2, retries=1)
    assert [one.name for one in ended] == list(hows)
    return {one.name: one for one in ended}


def test_a_worker_that_is_killed_is_replaced_and_its_job_tried_again(
    results: dict[str, JobResult], folder: Path
) -> None:
    assert (results["die once"].state, results["die once"].attempts) == ("done", 2)
    first, second = (folder / "die once" / "tries").read_text().splitlines()
    assert first != second


def test_a_job_that_kills_every_worker_is_given_up(results: dict[str, JobResult], folder: Path) -> None:
    assert (results["die"].state, results["die"].attempts, tries(folder / "die")) == ("failed", 2, 2)
    assert "its worker died 2 times, last killed by SIGKILL" in str(results["die"].sentence)


def test_errors_are_sentences_and_are_not_tried_again(results: dict[str, JobResult], folder: Path) -> None:
    assert results["raise"].sentence == "ZeroDivisionError: three apples for nobody"
    assert "in behave" in str(results["raise"].traceback)
    assert results["mistake"].sentence == "expected apples, got pears"
    assert results["exit"].sentence == "SystemExit: 3"
    assert "holds no complete result" in str(results["nothing"].sentence)
    assert [tries(folder / how) for how in ("raise", "mistake", "exit", "nothing")] == [1, 1, 1, 1]


def test_what_measurements_say_comes_back(results: dict[str, JobResult]) -> None:
    assert results["warn"].notes == ("a pear was measured",)
    assert results["warn"].ok


def test_jobs_run_in_other_processes_with_few_threads(results: dict[str, JobResult], folder: Path) -> None:
    process, threads = (folder / "fine" / "done").read_text().split()
    assert int(process) != os.getpid()
    assert int(threads) <= max(1, (os.cpu_count() or 1) // 2)


def test_no_process_is_left(results: dict[str, JobResult]) -> None:
    assert not [child for child in multiprocessing.active_children() if child.name == "ics-sweep"]


def test_a_run_is_the_same_in_a_process_of_its_own(tmp_path: Path) -> None:
    configs = [tiny(seed=seed, instruments={"activations": "every(1)"}) for seed in (0, 1)]
    here, there = jobs_of(configs, tmp_path / "here"), jobs_of(configs, tmp_path / "there")
    told: set[str] = set()
    run_jobs(here, workers=1)
    ended = run_jobs(there, workers=2, own_progress=lambda what, *_: told.add(what))
    assert [one.sentence for one in ended] == [None, None]
    assert told == {one.name for one in there}
    for one, other in zip(here, there, strict=True):
        for table, column in (("steps", "loss"), ("activations", "mean"), ("activations", "m2")):
            np.testing.assert_array_equal(
                ics.open_run(one.to).table(table)[column], ics.open_run(other.to).table(table)[column]
            )


def test_a_job_that_cannot_be_sent_is_named_before_anything_runs(tmp_path: Path) -> None:
    local = Job("local", tmp_path / "local", lambda: None, lambda: False)
    with pytest.raises(UsageError, match="that of local cannot be sent there"):
        run_jobs([job(tmp_path, "fine"), local], workers=2)
    assert not (tmp_path / "fine").exists()


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(unguarded=True, retries=0, jobs=("fine", "well")))
    ended = subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path / "runs"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "call run_jobs below `if __name__ == '__main__':`" in ended.stderr.splitlines()[-1]


def test_an_interrupt_closes_the_runs_and_keeps_what_is_finished(tmp_path: Path) -> None:
    """As a terminal does it: Ctrl-C reaches the parent and its workers alike."""
    (tmp_path / "script.py").write_text(SCRIPT.format(unguarded=False, retries=2, jobs=("fine", "wait", "later")))
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path / "runs"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not ((tmp_path / "runs/later/done").exists() and (tmp_path / "runs/wait/tries").exists()):
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(parent.pid, signal.SIGINT)
        _, err = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert parent.returncode == -signal.SIGINT
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert err.count("Traceback") == 1  # the parent's own
    assert (tmp_path / "runs/wait/closed").exists()
    assert not (tmp_path / "runs/wait/done").exists()
    assert (tmp_path / "runs/fine/done").exists()
