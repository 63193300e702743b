"""Four short runs, two nets with two seeds each, recorded once by the command itself; and a way to run commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ics.cli import main


@dataclass(frozen=True)
class CommandResult:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str

    @property
    def mistake(self) -> str:
        """The one sentence on stderr."""
        assert self.status == 2, self
        (sentence,) = self.err.splitlines()
        assert sentence.startswith("ics: ")
        assert "Traceback" not in sentence
        return sentence


Command = Callable[..., CommandResult]


@pytest.fixture
def run_ics(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments: object) -> CommandResult:
        status = main([str(argument) for argument in arguments])
        return CommandResult(status, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with standard-0, standard-1, batchnorm-0, batchnorm-1 of 4 steps, everything measured at each."""
    folder = tmp_path_factory.mktemp("runs")
    for norm, name in (("none", "standard"), ("batch", "batchnorm")):
        options = ["--norm", norm, "--seeds", "2", "--steps", "4", "--batch-size", "32", "--every", "1"]
        assert main(["train", "digits-mlp", *options, "--workers", "1", "--to", str(folder / name)]) == 0
    return folder
