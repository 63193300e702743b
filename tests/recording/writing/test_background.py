"""The thread itself: woken and not fed, never waited for in vain."""

from __future__ import annotations

import threading

import pytest

from ics.recording.writing import background as background_module
from ics.recording.writing.background import Background


def test_work_is_done_in_another_thread_once_for_any_number_of_wake_ups_meanwhile():
    go, threads = threading.Event(), []

    def work():
        threads.append(threading.current_thread())
        assert go.wait(20)

    background = Background(work, name="test")
    background.wake()
    for _ in range(10):
        background.wake()
    go.set()
    background.stop()
    assert threading.current_thread() not in threads
    assert len(threads) <= 3  # the first, one for the ten, one for the wait of stop
    assert not any(thread.is_alive() for thread in threads)
    assert all(thread.daemon for thread in threads)


def test_it_can_be_woken_again_after_it_was_stopped():
    done = []
    background = Background(lambda: done.append(len(done)), name="test")
    for _ in range(3):
        background.stop()
    assert done == [0, 1, 2]


def test_what_work_raises_is_raised_where_it_is_waited_for_and_only_there():
    mistakes = [RuntimeError("first"), None]

    def work():
        mistake = mistakes.pop(0) if mistakes else None
        if mistake:
            raise mistake

    background = Background(work, name="test")
    with pytest.raises(RuntimeError, match="first"):
        background.wait()
    background.wait()
    background.stop()


def test_a_wait_ends_as_soon_as_its_condition_holds():
    go, room = threading.Event(), threading.Event()

    def work():
        room.set()
        background.progressed()
        assert go.wait(20)

    background = Background(work, name="test")
    background.wait(room.is_set)  # would hang until `go`, which nobody has set
    go.set()
    background.stop()


def test_where_no_thread_can_be_started_the_caller_does_the_work(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    workers = []
    background = Background(lambda: workers.append(threading.current_thread()), name="test")
    background.wake()
    background.wait()
    background.stop()
    assert set(workers) == {threading.current_thread()}


def test_a_process_that_ends_waits_for_the_work_and_a_fork_of_it_does_not(monkeypatch):
    done = []
    background = Background(lambda: done.append(1), name="test")
    background.wake()
    background._at_exit()
    assert done
    monkeypatch.setattr(background_module.os, "getpid", lambda: -1)
    assert background.foreign
    with background._changed:  # held for ever in a fork: the exit handler must not want it
        before = len(done)
        thread = threading.Thread(target=background._at_exit)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
    assert len(done) == before
    monkeypatch.undo()
    background.stop()
