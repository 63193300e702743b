"""Reading, analysing, drawing and reporting need no torch, and analysis needs no matplotlib."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.analysis.synthetic import make_run

_BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocked())
"""

_ANALYSE = """
import ics
runs = ics.open_runs({folder!r})
assert len(ics.analysis.headline(runs)) == 3
assert len(ics.analysis.compare(runs, runs)) > 5
"""

_DRAW = """
ics.plots.write_report(runs, {folder!r} + "/report.html")
assert ics.plots.landscape(runs.table("gradient_line")).axes
"""


@pytest.mark.parametrize(
    ("blocked", "script"),
    [({"torch", "torchvision"}, _ANALYSE + _DRAW), ({"torch", "torchvision", "matplotlib", "seaborn"}, _ANALYSE)],
)
def test_works_where_imports_fail(tmp_path: Path, blocked: set[str], script: str) -> None:
    make_run(tmp_path, "bn", 0, steps=(0, 10))
    code = _BLOCKED.format(blocked=blocked) + script.format(folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
