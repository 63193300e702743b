"""Which backend measures, what is said about it, and that it never stands in the way."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap

import pytest
import torch

from ics import stats
from ics.errors import UsageError
from ics.stats import backends


@pytest.fixture(autouse=True)
def _as_at_first(monkeypatch):
    monkeypatch.setattr(backends, "_ways", {})
    monkeypatch.setattr(backends, "_compiled", {})
    monkeypatch.setattr(backends, "_choice", "auto")


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )


def test_importing_does_not_import_numba():
    code = "import sys, ics.stats as s; print(*('numba' in sys.modules, s.backend().name, 'numba' in sys.modules))"
    assert run(code).stdout.split() == ["False", "fused", "True"]


def test_the_choice_is_kept_and_told():
    stats.use_backend("eager")
    assert stats.backend() == ("eager", "chosen by use_backend")
    stats.use_backend("fused")
    assert stats.backend() == ("fused", "chosen by use_backend")
    stats.use_backend("auto")
    assert stats.backend() == ("fused", "kernels compiled by numba")
    assert stats.backend("meta") == ("eager", "there is no fused backend for device meta")
    assert stats.backend("cuda").name == "eager"


def test_an_unknown_backend_is_refused_in_a_sentence():
    with pytest.raises(UsageError, match=r"'triton' came; type stats\.use_backend\(\"auto\"\)"):
        stats.use_backend("triton")


def test_without_numba_it_is_said_once_and_measured_eagerly(monkeypatch, caplog):
    def missing():
        raise ModuleNotFoundError("No module named 'numba'", name="numba")

    monkeypatch.setitem(backends._MAKERS, "cpu", missing)
    with caplog.at_level(logging.WARNING, "ics"):
        for _ in range(2):
            assert stats.reduce(torch.ones(4, 3), channel_axis=1).moments[1].tolist() == [1, 1, 1]
            stats.use_backend("fused")
    assert [record.getMessage() for record in caplog.records] == [
        "ics: statistics on cpu are taken by separate torch operations, which is slower (numba is not installed). "
        "Type pip install numba."
    ]
    assert stats.backend() == ("eager", "numba is not installed")


def test_a_compiler_that_fails_stops_nothing(monkeypatch, caplog):
    def broken():
        raise OSError("no space left\nand much more")

    monkeypatch.setitem(backends._MAKERS, "cpu", broken)
    assert stats.reduce(torch.ones(4, 3), channel_axis=1).moments[1].tolist() == [1, 1, 1]
    (record,) = caplog.records
    assert "(OSError: no space left). Type ics.stats.use_backend" in record.getMessage()


def test_kernels_are_compiled_once_with_a_sentence_and_then_found_on_disk(tmp_path):
    code = """
        import hashlib, torch, ics.stats as s
        torch.set_num_threads(1)
        x = torch.randn(16, 64, 32, 32, generator=torch.Generator().manual_seed(0))
        reduced = s.reduce(x, channel_axis=1)
        print(s.backend().name, hashlib.md5(reduced.moments.numpy().tobytes()).hexdigest())
    """
    first, second = (run(textwrap.dedent(code), NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first.stdout.startswith("fused ")
    assert (
        first.stdout == second.stdout
    )  # what is compiled and what is read differ in the last bits if not taken care of
    assert first.stderr.startswith("ics: compiling the kernels of the statistics")
    assert first.stderr.count("\n") == 1
    assert second.stderr == ""
