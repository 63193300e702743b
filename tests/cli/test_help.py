"""Help: every command has it, with an example whose options exist."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
import typer

from ics import __version__
from ics.cli import EXAMPLES, app, main
from tests.cli.conftest import Command

COMMANDS = {command.__name__: example for command, example in EXAMPLES.items()}


def test_the_commands_are_these() -> None:
    assert set(COMMANDS) == {"demo", "train", "recipes", "layers", "show", "report", "compare", "bench", "schema"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_and_ends_with_an_example(name: str, run_ics: Command) -> None:
    outcome = run_ics(name, "--help")
    assert outcome.status == 0
    words = " ".join(outcome.out.split())
    assert f"Usage: ics {name}" in words
    assert words.endswith(f"Example: {' '.join(COMMANDS[name].split())}")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_in_an_example_exist(name: str) -> None:
    program, command, *arguments = shlex.split(COMMANDS[name])
    assert (program, command) == ("ics", name)
    parser = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    parser.make_context(name, list(arguments))  # parses and runs nothing


def test_ics_alone_prints_the_commands(run_ics: Command) -> None:
    outcome = run_ics()
    assert outcome.status == 0
    assert all(name in outcome.out for name in COMMANDS)


@pytest.mark.parametrize("command", [["-m", "ics"], ["-c", "import sys, ics.cli; sys.exit(ics.cli.main())"]])
def test_it_runs_as_a_module_and_as_an_entry_point(command: list[str]) -> None:
    result = subprocess.run([sys.executable, *command, "--version"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"ics {__version__}\n", "")


def test_main_reads_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ics", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"ics {__version__}\n"
