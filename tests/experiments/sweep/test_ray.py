"""Sweeps on Ray: the same run folders, and a worker that is killed is replaced. Skipped without Ray, an extra."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ics
from ics.errors import UsageError
from ics.experiments.sweep import jobs_of, run_jobs
from tests.experiments.sweep.jobs import job, tries
from tests.experiments.sweep.test_training import tiny

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")

# Ray announces its own changes, and leaves files of its log open when it stops.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster that was there before; starting one takes seconds, so the tests share it."""
    context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield context.address_info["address"]
    ray.shutdown()


def test_everything_that_can_happen_to_a_task(cluster: str, tmp_path: Path) -> None:
    hows = ("die once", "fine", "raise", "mistake", "nothing", "warn", "die")
    told: list[int] = []
    ended = run_jobs(
        [job(tmp_path, how) for how in hows], cluster=cluster, retries=1, progress=lambda _, done, __: told.append(done)
    )
    found = {one.name: one for one in ended}
    assert list(found) == list(hows)
    assert told == list(range(len(hows) + 1))
    assert (found["die once"].state, found["die once"].attempts) == ("done", 2)
    assert (found["die"].state, found["die"].attempts, tries(tmp_path / "die")) == ("failed", 2, 2)
    assert "its worker died 2 times" in str(found["die"].sentence)
    assert found["raise"].sentence == "ZeroDivisionError: three apples for nobody"
    assert found["mistake"].sentence == "expected apples, got pears"
    assert "holds no complete result" in str(found["nothing"].sentence)
    assert found["warn"].notes == ("a pear was measured",)
    assert (tmp_path / "fine" / "done").read_text().split()[1] == "1"  # threads
    assert [tries(tmp_path / how) for how in ("fine", "raise", "mistake")] == [1, 1, 1]
    assert ray.is_initialized()  # a connection of the caller's is left alone


def test_a_run_is_the_same_on_a_cluster(cluster: str, tmp_path: Path) -> None:
    configs = [tiny(seed=seed) for seed in (0, 1)]
    here, there = jobs_of(configs, tmp_path / "here"), jobs_of(configs, tmp_path / "there")
    run_jobs(here, workers=1)
    assert [one.sentence for one in run_jobs(there, cluster=cluster, workers=1)] == [None, None]
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(
            ics.open_run(one.to).table("steps")["loss"], ics.open_run(other.to).table("steps")["loss"]
        )
    assert [one.state for one in run_jobs(there, cluster=cluster)] == ["reused", "reused"]


def test_a_cluster_on_this_machine_is_stopped_afterwards(tmp_path: Path) -> None:
    ray.shutdown()
    (ended,) = run_jobs([job(tmp_path, "fine", threads=2)], cluster="local", workers=1)
    assert ended.ok
    assert not ray.is_initialized()


def test_an_address_where_no_cluster_is(tmp_path: Path) -> None:
    ray.shutdown()
    with pytest.raises(UsageError, match=r"no Ray cluster answers at 'nowhere'"):
        run_jobs([job(tmp_path, "fine")], cluster="nowhere")
