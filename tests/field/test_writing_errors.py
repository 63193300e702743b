"""What goes wrong in the thread that writes never surfaces in a step: that table ends, the others go on."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import ics
from ics.errors import MeasurementWarning, UsageError
from ics.recording.writing import buffer as buffer_module
from ics.recording.writing import disk_writer
from ics.store import writer

STEPS = range(6)


def train(tmp_path, **options):
    """Train with a flush after every step; return what was warned of and the run."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    instruments = {"activations": 1, "gradients": 1, "normalization": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recorder = ics.Recorder(
            model, to=tmp_path, optimizer=optimizer, instruments=instruments, flush_every=1, **options
        )
        for number in STEPS:
            with recorder.step() as step:
                optimizer.zero_grad()
                loss = model(torch.randn(6, 4)).square().sum()
                loss.backward()
                optimizer.step()
                step.log(loss=loss, number=number)
            recorder._buffer.drain()
        recorder.close()
    told = [str(each.message) for each in caught]
    assert all(issubclass(each.category, MeasurementWarning) for each in caught)
    run = ics.open_run(tmp_path)
    assert run.state == "completed"
    assert set(told) <= set(run.info.get("notes", []))
    return told, run


def failing(real, table, *, after=0, error=ZeroDivisionError):
    """Return `real`, which raises for a table after so many calls for it."""
    calls = []

    def wrapped(first, *arguments):
        given = getattr(first, "table", None) or getattr(arguments[-1] if arguments else None, "name", None)
        if given == table:
            calls.append(1)
            if len(calls) > after:
                raise error("out of luck")
        return real(first, *arguments)

    return wrapped


def rows(run, table):
    found = run.table(table)
    return set(found["step"]) if len(found) else set()


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("table", ["activations", "gradients", "normalization"])
def test_a_table_that_cannot_be_laid_out_ends_alone(table, after, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_writer, "host_columns", failing(disk_writer.host_columns, table, after=after))
    told, run = train(tmp_path)
    assert len(told) == 1
    assert told[0].startswith(f"the table {table} is switched off")
    for name in ("activations", "gradients", "normalization", "steps"):
        if name != table:
            assert rows(run, name) == set(STEPS)
    assert len(rows(run, table)) <= after


def test_a_table_whose_part_cannot_be_encoded_ends_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "write_part", failing(writer.write_part, "gradients", after=2, error=TypeError))
    told, run = train(tmp_path)
    assert [text.split(",")[0] for text in told] == ["the table gradients is switched off"]
    assert rows(run, "gradients") == {0, 1}
    assert rows(run, "activations") == rows(run, "normalization") == rows(run, "steps") == set(STEPS)


def test_a_table_whose_tensors_cannot_be_sent_ends_alone(tmp_path, monkeypatch):
    real = buffer_module.send

    def refuse(blocks):
        if any(block.table == "normalization" for block in blocks):
            raise torch.OutOfMemoryError("out of memory")
        return real(blocks)

    monkeypatch.setattr(buffer_module, "send", refuse)
    told, run = train(tmp_path)
    assert len(told) == 1
    assert "the table normalization is switched off" in told[0]
    assert rows(run, "normalization") == set()
    assert rows(run, "activations") == rows(run, "gradients") == rows(run, "steps") == set(STEPS)


def test_a_column_that_cannot_be_written_is_left_out_and_its_table_goes_on(tmp_path, monkeypatch):
    real = disk_writer.host_columns

    def spoil(block, table):
        columns = real(block, table)
        return columns | {"number": ["three"] * block.num_rows} if block.table == "steps" else columns

    monkeypatch.setattr(disk_writer, "host_columns", spoil)
    told, run = train(tmp_path)
    assert len(told) == 1
    assert told[0].startswith("number of steps is left out")
    assert run.table("steps")["loss"].notna().all()
    assert rows(run, "steps") == rows(run, "gradients") == set(STEPS)


def test_a_strict_recorder_raises_what_the_thread_met(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_writer, "host_columns", failing(disk_writer.host_columns, "gradients"))
    with pytest.raises(ZeroDivisionError, match="out of luck"):
        train(tmp_path, strict=True)


def test_a_complex_number_that_is_logged_is_refused_and_not_cut_to_its_real_part(tmp_path):
    recorder = ics.Recorder(nn.Linear(2, 2), to=tmp_path, instruments={"activations": ics.at([9])})
    with recorder.step() as step:
        with pytest.raises(UsageError, match="expects one number for 'z', got a complex one"):
            step.log(z=torch.tensor(1 + 2j))
        step.log(z=torch.tensor(1 + 2j).abs())
    recorder.close()
