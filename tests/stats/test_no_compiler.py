"""Statistics where compiling fails or keeps nothing: the same numbers, one plain sentence, never a crash."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from ics import stats
from ics.stats import backends

pytest.importorskip("numba")

WITHOUT_NUMBA = """
import sys
class Missing:
    def find_spec(name, path=None, target=None):
        if name == "numba":
            raise ModuleNotFoundError("No module named 'numba'", name="numba")
sys.meta_path.insert(0, Missing)
"""
ROOT = Path(__file__).parents[2]
MEASURE = """
import torch
from ics import stats
torch.set_num_threads(2)
x = torch.randn(2, 3, 400_000, generator=torch.Generator().manual_seed(0))  # large enough to be shared by threads
found = stats.reduce(x, channel_axis=1)
print(stats.backend().name, found.moments[1:3].sum().item().hex(), int(found.histogram.sum()))
"""


def measure(before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Measure in a fresh process, after `before` was run there."""
    program = textwrap.dedent(before) + MEASURE
    environment = {**os.environ, "OMP_NUM_THREADS": "2", **environment}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def usual() -> str:
    """What is printed where everything is there."""
    done = measure()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fused ")
    return done.stdout


@pytest.mark.slow
def test_a_cache_folder_that_cannot_be_written_costs_one_sentence(usual: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = measure(NUMBA_CACHE_DIR=str(tmp_path / "file" / "below"))  # no folder, for the superuser neither
    assert done.returncode == 0, done.stderr
    assert done.stdout == usual
    assert "Traceback" not in done.stderr
    assert done.stderr.count("cache") <= 2
    assert all(line.startswith("ics: ") for line in done.stderr.splitlines())


def test_without_numba_separate_operations_measure_after_one_sentence(usual: str) -> None:
    done = measure(WITHOUT_NUMBA)
    assert done.returncode == 0, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert "numba is not installed" in sentence
    assert sentence.endswith("Type pip install numba.")
    agree(done.stdout, usual)


@pytest.mark.parametrize(
    ("breaking", "reason"),
    [
        ('numba.njit = lambda *a, **k: (_ for _ in ()).throw(OSError("no room"))', "OSError: no room"),
        ("numba.extending.intrinsic = lambda f: 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_numba_that_cannot_compile_is_said_once(breaking: str, reason: str, usual: str) -> None:
    done = measure(f"import numba, numba.extending\n{breaking}\n")
    assert done.returncode == 0, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert reason in sentence
    agree(done.stdout, usual)


def test_without_torchs_openmp_a_pool_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from ics.stats import parallel

    shared = []

    class Pool(parallel.ThreadPoolExecutor):
        def submit(self, *arguments):
            shared.append(arguments)
            return super().submit(*arguments)

    def measured() -> list[stats.Reduced]:
        monkeypatch.setattr(backends, "_ways", {})
        monkeypatch.setattr(backends, "_compiled", {})
        return [stats.reduce(x, channel_axis=1) for x in tensors]

    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in ((2, 3, 400_000), (40_000, 16), (4, 5))]
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        usual = measured()
        monkeypatch.setattr(parallel, "openmp", lambda: None)
        monkeypatch.setattr(parallel, "ThreadPoolExecutor", Pool)
        pooled = measured()
    finally:
        torch.set_num_threads(threads)
    assert shared
    assert stats.backend().name == "fused"
    for found, wanted in zip(pooled, usual, strict=True):
        assert torch.equal(found.moments.nan_to_num(), wanted.moments.nan_to_num())
        assert torch.equal(found.histogram, wanted.histogram)


def agree(output: str, usual: str) -> None:
    """Separate operations give the same counts, and the same moments up to rounding."""
    (name, total, counted), (_, wanted, expected) = output.split(), usual.split()
    assert name == "eager"
    assert counted == expected
    assert float.fromhex(total) == pytest.approx(float.fromhex(wanted), rel=1e-6)
