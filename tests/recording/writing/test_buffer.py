"""The thread that writes: nothing is lost, doubled or kept from the user, and memory stays bounded."""

from __future__ import annotations

import json
import linecache
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import pytest
import torch

from ics.errors import MeasurementWarning, UsageError
from ics.recording.writing import buffer as buffer_module
from ics.recording.writing import disk_writer as disk_writer_module
from ics.recording.writing.buffer import RecordBuffer
from ics.recording.writing.transfer import receive
from ics.records import Block
from ics.stats.parallel import openmp
from ics.store import Writer, open_run, writer

ROOT = Path(__file__).parents[3]
FULL = OSError(28, "No space left on device")


def make(path, **options):
    return RecordBuffer(Writer(path, info={}), **{"flush_every": 2} | options)


def rows(step, *, value=None):
    keys = {"layer": ["a", "b"], "layer_index": [0, 1], "call": [0, 0], "site": ["input"] * 2}
    mean = torch.tensor([step, step + 0.5]) if value is None else value
    return Block("activations", {**keys, "mean": list(mean)})


def record(buffer, steps):
    for step in steps:
        buffer.add(rows(step), step=step)
        buffer.add_step({"step": step, "loss": torch.tensor(step / 2)})


def check(path, num_steps):
    run = open_run(path)
    steps = run.table("steps")
    assert steps["step"].tolist() == list(range(num_steps))
    assert steps["loss"].tolist() == [step / 2 for step in range(num_steps)]
    found = run.table("activations")
    assert found["mean"].tolist() == [step + add for add in (0, 0.5) for step in range(num_steps)]
    return run


@pytest.fixture
def stuck(monkeypatch):
    """Holds the thread up before it writes a part, until the event is set; counts what waits."""
    go, reached = threading.Event(), threading.Event()
    real = writer.write_part

    def hold(*arguments):
        reached.set()
        assert go.wait(20)
        real(*arguments)

    monkeypatch.setattr(writer, "write_part", hold)
    yield go, reached
    go.set()


@pytest.mark.parametrize("num_steps", [0, 1, 2, 7])
def test_what_was_recorded_is_what_is_read(num_steps, tmp_path):
    buffer = make(tmp_path)
    record(buffer, range(num_steps))
    buffer.close("completed")
    buffer.close("failed")
    if num_steps:
        check(tmp_path, num_steps)
    assert open_run(tmp_path).state == "completed"


def test_a_flush_does_not_wait_for_the_disk_and_drain_does(tmp_path, stuck):
    go, reached = stuck
    buffer = make(tmp_path)
    record(buffer, range(4))  # flushes twice, while nothing can be written
    assert reached.wait(20)
    assert open_run(tmp_path).tables == ()
    go.set()
    record(buffer, range(4, 5))
    buffer.drain()
    check(tmp_path, 5)
    buffer.close("completed")


def test_a_flush_waits_when_too_many_bytes_are_in_the_queue(tmp_path, stuck, monkeypatch):
    monkeypatch.setattr(buffer_module, "_QUEUE_BYTES", 3 * 2 * (2 * 520))  # three flushes of two steps
    go, _ = stuck
    buffer = make(tmp_path)
    trainer = threading.Thread(target=record, args=(buffer, range(40)))
    trainer.start()
    trainer.join(0.5)
    assert trainer.is_alive()
    held = buffer._waiting_bytes()
    assert 0 < held <= buffer_module._QUEUE_BYTES
    go.set()
    trainer.join(20)
    buffer.close("completed")
    check(tmp_path, 40)


def test_a_full_disk_is_warned_about_once_and_loses_nothing(tmp_path, monkeypatch):
    buffer = make(tmp_path)
    real = os.replace

    def full(*arguments):
        raise FULL

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(MeasurementWarning, match="kept in memory: .*No space left") as caught:
        for first in (0, 2, 4):
            record(buffer, range(first, first + 2))
            buffer.drain()
    assert len(caught) == 1
    monkeypatch.setattr(os, "replace", real)
    record(buffer, range(6, 8))
    buffer.drain()
    check(tmp_path, 8)
    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(MeasurementWarning, match="No space left"):  # a second time the disk is full
        record(buffer, range(8, 10))
        buffer.drain()
    with pytest.raises(Exception, match="No space left"):
        buffer.close("completed")
    monkeypatch.setattr(os, "replace", real)
    buffer.close("completed")  # room was made
    assert check(tmp_path, 10).state == "completed"


def test_memory_stays_bounded_while_the_disk_takes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_writer_module, "_KEPT_BYTES", 2000)
    buffer = make(tmp_path)
    real = os.replace

    def full(*arguments):
        raise FULL

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for outage in (range(0, 100, 2), range(200, 300, 2)):
            monkeypatch.setattr(os, "replace", full)
            for step in outage:
                record(buffer, [step, step + 1])
                buffer.drain()
            assert buffer._writer.pending_bytes < 4000
            monkeypatch.setattr(os, "replace", real)
            record(buffer, [outage.stop, outage.stop + 1])
            buffer.drain()
        buffer.close("completed")
    assert sum("are given up until" in str(one.message) for one in caught) == 2  # each outage is told
    run = open_run(tmp_path)
    steps = [step for step in run.table("steps")["step"] if step < 100]
    assert steps == list(range(len(steps)))  # the first ones are kept, and given up are the last
    assert 0 < len(steps) < 100
    assert any("are given up" in note for note in run.info["notes"])


def test_a_mistake_of_the_program_is_raised_and_costs_only_its_own_rows(tmp_path):
    buffer = make(tmp_path)
    record(buffer, range(2))
    buffer.drain()
    buffer.add(Block("gradient_shift", {"layer": ["a"]}), step=2)  # without keys
    record(buffer, range(2, 4))
    with pytest.raises(UsageError, match="got none of"):
        buffer.drain()
    record(buffer, range(4, 6))
    buffer.add(Block("gradient_shift", {"layer": ["a"]}), step=6)
    with pytest.raises(UsageError, match="got none of"):
        buffer.close("completed")
    assert check(tmp_path, 6).state == "completed"


def test_notes_and_fields_arrive_in_order_and_are_snapshots(tmp_path):
    buffer = make(tmp_path)
    layers = [{"name": "a"}]
    buffer.update_info(layers=layers, objective={"equal": True})
    buffer.note("first")
    layers.append({"name": "later"})
    buffer.note("second")
    buffer.drain()
    info = open_run(tmp_path).info
    assert info["notes"] == ["first", "second"]
    assert info["layers"] == [{"name": "a"}]
    with pytest.raises(UsageError, match="got object"):
        buffer.update_info(thing=object())
    buffer.close("completed")


def test_a_loss_that_is_not_finite_is_counted_and_warned_about_once(tmp_path):
    buffer = make(tmp_path)
    with pytest.warns(MeasurementWarning, match="not finite from step 1 on") as caught:
        for step, loss in enumerate([1.0, math.nan, 0.5, None, math.inf, math.nan]):
            buffer.add_step({"step": step} if loss is None else {"step": step, "loss": loss})
        buffer.close("completed")
    assert len(caught) == 1
    info = open_run(tmp_path).info
    assert info["num_nonfinite_losses"] == 3
    assert len(info["notes"]) == 1


@pytest.mark.parametrize("moment", [*range(0, 204, 12), *range(204, 234)])  # the page is turned at about 210
def test_an_interrupt_at_any_line_loses_and_doubles_nothing(moment, tmp_path):
    """Ctrl-C is raised at the given line of `buffer`, `background` or `transfer` that the training thread runs."""
    buffer = make(tmp_path)
    buffer.add(rows(0), step=0)
    buffer.add_step({"step": 0, "loss": torch.tensor(0.0)})
    buffer.add(rows(1), step=1)
    seen = 0

    def interrupt(frame, event, argument):
        nonlocal seen
        if not frame.f_code.co_filename.endswith(("buffer.py", "background.py", "transfer.py")):
            return None
        if event == "line":
            seen += 1
            # A tracer may raise between the end of a `with` block and its __exit__, where no signal ever does.
            leaving = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")
            if seen > moment and not leaving:
                sys.settrace(None)
                raise KeyboardInterrupt
        return interrupt

    buffer._pages[-1].rows.append({"step": 1, "loss": torch.tensor(0.5)})
    sys.settrace(interrupt)
    try:
        buffer.flush()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    record(buffer, range(2, 5))
    buffer.close("interrupted")
    check(tmp_path, 5)


def run_program(text, *arguments, **options):
    # Whoever runs the tests in the background of a shell has them started with Ctrl-C ignored.
    interruptible = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    imports = "import os, sys, torch\nfrom tests.recording.writing.test_buffer import *\n"
    program = interruptible + imports + textwrap.dedent(text)
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, timeout=60, check=False, capture_output=True, text=True, **options)


def test_what_was_handed_over_is_written_when_the_process_ends_without_closing(tmp_path):
    done = run_program("record(make(sys.argv[1]), range(6))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert check(tmp_path, 6).state == "running"


def test_ctrl_c_while_closing_waits_still_writes_what_was_handed_over(tmp_path):
    done = run_program(
        """
        import signal, threading, time
        real = writer.write_part
        signalled = threading.Event()
        def held(*arguments):
            signalled.wait(30)      # so that closing cannot have ended before the signal, however slow the machine
            real(*arguments)
        writer.write_part = held
        def interrupt():
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            signalled.set()
        buffer = make(sys.argv[1])
        record(buffer, range(8))
        threading.Thread(target=interrupt).start()
        buffer.close("completed")
        """,
        tmp_path,
    )
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode in (1, 130, -signal.SIGINT)
    check(tmp_path, 8)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_neither_hangs_nor_writes(tmp_path):
    done = run_program(
        """
        buffer = make(sys.argv[1])
        record(buffer, range(3))
        child = os.fork()
        if child == 0:
            buffer.close("interrupted")        # as an exit handler would
            try:
                record(buffer, range(9, 12))
            except UsageError:
                sys.exit(7)                     # runs the exit handlers too
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        record(buffer, range(3, 5))
        buffer.close("completed")
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert check(tmp_path, 5).state == "completed"


def test_workers_of_a_data_loader_leave_the_run_alone(tmp_path):
    done = run_program(
        """
        buffer = make(sys.argv[1])
        loader = torch.utils.data.DataLoader(range(40), num_workers=2, multiprocessing_context="fork")
        for step, _ in enumerate(loader):
            record(buffer, [step])
        buffer.close("completed")
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert check(tmp_path, 40).state == "completed"
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "completed"


@pytest.mark.skipif(openmp() is None, reason="torch computes without GNU OpenMP here")
def test_the_thread_that_writes_takes_no_helpers_that_training_would_have_to_share_cores_with(tmp_path, monkeypatch):
    threads = []

    def counting(sent):
        threads.append((threading.current_thread().name, torch.get_num_threads()))
        return receive(sent)

    monkeypatch.setattr(disk_writer_module, "receive", counting)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        buffer = make(tmp_path / "run")
        buffer.add(rows(0), step=0)
        buffer.close("finished")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [("ics-writing", 1)]
