"""Runs are read, listed and written in a process in which torch cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.store.rows import write_run

PROGRAM = """
import sys
from importlib.abc import MetaPathFinder

class NoTorch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is not to be imported here")

sys.meta_path.insert(0, NoTorch())
try:
    import torch
except ImportError:
    pass
else:
    sys.exit("torch could be imported")

import ics
run = ics.open_run(sys.argv[1])
print(run.state, *run.table("steps", where=[("step", ">", 3)])["step"])
print(len(ics.open_runs([run]).table("activations", columns=["mean"], where={"layer": "conv1"})))
from ics.store import Writer, schema_markdown
Writer(sys.argv[2], info={}).close()
print(len(schema_markdown()) > 0)
"""


def test_everything_works_where_torch_cannot_be_imported(tmp_path):
    write_run(tmp_path / "run")
    command = [sys.executable, "-W", "error", "-c", PROGRAM, tmp_path / "run", tmp_path / "new"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60, check=False
    )
    assert done.stdout.split() == ["completed", "4", "5", "12", "True"], done.stderr
