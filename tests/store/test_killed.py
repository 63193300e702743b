"""A process that dies at any moment leaves every flushed row readable, exactly once.

What a kill leaves behind is the folder as it is at that moment. So the folder is copied before and after everything
that changes it, and each copy is opened as the run it is. A few real processes are killed as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ics.schema import TABLES
from ics.store import Writer, compaction, open_run
from tests.store.rows import site_rows

ROOT = Path(__file__).parents[2]
STEPS = 4


class Snapshots:
    """Copies of a run's folder around every call that changes a name in it."""

    def __init__(self, run: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.copies = run, copies
        self.taken: list[tuple[Path, int, int]] = []
        self.flushed, self.appended = 0, 0
        for owner, name in ((os, "replace"), (Path, "unlink"), (Path, "mkdir"), (os, "fsync")):
            monkeypatch.setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, change):
        def wrapped(*arguments, **options):
            self.take()
            result = change(*arguments, **options)
            self.take()
            return result

        return wrapped

    def take(self) -> None:
        if self.run.exists():
            copy = self.copies / str(len(self.taken))
            # Plain os calls: shutil would make folders through Path.mkdir and be copied itself.
            copy_tree(self.run, copy)
            self.taken.append((copy, self.flushed, self.appended))


def copy_tree(source: Path, target: Path) -> None:
    os.makedirs(target)
    for entry in os.scandir(source):
        if entry.is_dir():
            copy_tree(Path(entry.path), target / entry.name)
        else:
            shutil.copyfile(entry.path, target / entry.name)


def write_steps(writer: Writer, snapshots: Snapshots | None = None) -> None:
    for step in range(STEPS):
        if snapshots:
            snapshots.appended = step + 1
        writer.append("steps", {"step": [step], "loss": [float(step)]})
        writer.append("activations", site_rows(step))
        writer.flush()
        if snapshots:
            snapshots.flushed = step + 1


def steps_of(run, table: str) -> Counter[int]:
    return Counter(run.table(table, columns=["step"])["step"].tolist())


@pytest.mark.parametrize(
    ("limit", "fan_in", "num_parts"), [(9, 9, 1), (2, 9, 3), (1, 9, STEPS), (9, 2, 1), (1, 2, 1), (1, 3, 2)]
)
def test_every_moment_of_a_run_can_be_its_last(limit, fan_in, num_parts, tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "_FAN_IN", fan_in)
    monkeypatch.setattr(compaction, "_MAX_BYTES_AT_END", limit)
    monkeypatch.setattr(compaction, "_num_bytes", lambda part: 1)
    snapshots = Snapshots(tmp_path / "run", tmp_path / "copies", monkeypatch)
    writer = Writer(tmp_path / "run", info={"seed": 1})
    write_steps(writer, snapshots)
    writer.close()
    monkeypatch.undo()

    states = set()
    runs = [(copy, *counts) for copy, *counts in snapshots.taken if (copy / "run.json").exists()]
    assert len(runs) > 60
    for copy, flushed, appended in runs:
        run = open_run(copy)
        states.add(run.state)
        for table, rows_per_step in (("steps", 1), ("activations", 4)):
            found = steps_of(run, table)
            assert set(range(flushed)) <= set(found) <= set(range(appended)), copy
            assert set(found.values()) <= {rows_per_step}, copy
    assert states == {"running", "completed"}
    assert len(list((tmp_path / "run" / "activations").iterdir())) == num_parts


def test_every_moment_of_replacing_a_run_is_safe(tmp_path, monkeypatch):
    run = tmp_path / "run"
    write_steps(Writer(run, info={"seed": 1}))
    (run / "checkpoint.pt").write_bytes(b"the user's own")
    snapshots = Snapshots(run, tmp_path / "copies", monkeypatch)
    Writer(run, info={"seed": 2}, overwrite=True)
    monkeypatch.undo()
    seen = set()
    for copy, *_ in snapshots.taken:
        assert (copy / "checkpoint.pt").exists()
        if (copy / "run.json").exists():
            opened = open_run(copy)
            seen.add((opened.info["seed"], len(steps_of(opened, "steps")), len(steps_of(opened, "activations"))))
        else:  # neither run, and taken for neither
            with_rows = any(list((copy / name).glob("part-*")) for name in TABLES)
            if with_rows:
                with pytest.raises(ValueError, match="overwrite=True"):
                    Writer(copy, info={})
            Writer(copy, info={}, overwrite=True)
            assert open_run(copy).tables == ()
    assert seen == {(1, STEPS, STEPS), (2, 0, 0)}


PROGRAM = """
import os, sys
from pathlib import Path
from ics.store import Writer
from tests.store.test_killed import write_steps

target, name, number, moment = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
owner = {"replace": os, "fsync": os, "unlink": Path}[name]
real, calls = getattr(owner, name), []

def deadly(*arguments, **options):
    calls.append(arguments)
    if len(calls) == number and moment == "before":
        os._exit(9)
    result = real(*arguments, **options)
    if len(calls) == number:
        os._exit(9)
    return result

writer = Writer(target, info={})
setattr(owner, name, deadly)
write_steps(writer)
writer.append("steps", {"step": [99]})
writer.close()
"""


@pytest.mark.parametrize(
    ("name", "number", "moment", "steps"),
    [
        ("replace", 3, "before", [0]),  # in the second flush
        ("replace", 11, "after", [0, 1, 2, 3, 99]),  # merging steps
        ("unlink", 2, "after", [0, 1, 2, 3, 99]),  # deleting what was merged
    ],
)
def test_a_killed_process_leaves_what_it_flushed(name, number, moment, steps, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "run", name, str(number), moment], cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 9
    run = open_run(tmp_path / "run")
    assert steps_of(run, "steps") == dict.fromkeys(steps, 1)
    assert run.state == ("completed" if 99 in steps else "running")
