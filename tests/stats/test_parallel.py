from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from ics.stats.parallel import compute_alone, openmp


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_a_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.skipif(openmp() is None, reason="torch computes without GNU OpenMP here")
def test_a_thread_that_computes_alone_leaves_the_others_their_helpers(two_threads):
    def alone():
        compute_alone()
        return torch.get_num_threads()

    assert in_a_thread(torch.get_num_threads) == 2
    assert in_a_thread(alone) == 1
    assert torch.get_num_threads() == 2
    assert in_a_thread(torch.get_num_threads) == 2


@pytest.mark.skipif(openmp() is None or not Path("/proc/self/task").is_dir(), reason="needs GNU OpenMP and Linux")
@pytest.mark.parametrize(
    "operation", [torch.sqrt, torch.exp, lambda x: x * 2, lambda x: x.view(1000, -1) @ x.view(-1, 1000)]
)
def test_no_operation_of_a_thread_that_computes_alone_starts_another(two_threads, operation):
    values = torch.rand(1_000_000, dtype=torch.float64)
    operation(values)  # the helpers of this thread

    def started():
        compute_alone()
        before = threads()
        operation(values)
        return threads() - before  # by name: a thread of an earlier test may end meanwhile

    def threads():
        return {path.name for path in Path("/proc/self/task").iterdir()}

    assert not in_a_thread(started)


def test_without_gnu_openmp_nothing_is_changed(monkeypatch, two_threads):
    monkeypatch.setattr("ctypes.PyDLL", lambda *_, **__: (_ for _ in ()).throw(OSError("no such library")))
    compute_alone()
    assert torch.get_num_threads() == 2
    assert openmp() is None
