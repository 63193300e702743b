"""Shared by all commands: printing, progress bars, and mistakes as one sentence on stderr."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from ics.errors import IcsError, MeasurementWarning, UsageError

if TYPE_CHECKING:
    import pandas as pd

MISTAKE = 2
INTERRUPTED = 130

_SHOWN = 4  # members of a list cell: per-channel columns have hundreds

Report = Callable[[str, int, int], None]
"""Called as `report(what, done, total)`."""

# typer's errors derive from click's ClickException, which is in the package click or inside typer, by typer's version.
_COMMAND_LINE_ERROR: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def run_command(command: Callable[[], Any]) -> int:
    """Run a command and return its exit status; a user's mistake becomes one sentence on stderr and status 2."""
    try:
        with _plain_warnings():
            status = command() or 0
    except _COMMAND_LINE_ERROR as error:
        return _mistake(error.format_message(), hint=_help_of(error))
    except IcsError as error:
        return _mistake(str(error))
    except BrokenPipeError:  # `ics show RUN | head` closed the pipe: nothing is wrong. An OSError, so asked first
        _silence_stdout()
        return 0
    except OSError as error:
        return _mistake(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    if status == INTERRUPTED:  # typer catches Ctrl-C in a command and returns this status without a word
        typer.echo("ics: interrupted; what was recorded until here is kept", err=True)
    return status


def print_frame(frame: pd.DataFrame, *, max_rows: int | None = None) -> None:
    """Print a frame as wide as the terminal, with list cells shortened and numbers of four digits."""
    shown = frame if max_rows is None else frame.head(max_rows)
    text = shown.map(_cell).to_string(index=False, line_width=shutil.get_terminal_size((120, 24)).columns)
    typer.echo(text)
    if len(shown) < len(frame):
        typer.echo(f"... {len(frame) - len(shown)} more rows")


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Yield `report(what, done, total)`, which draws a bar on stderr for each `what`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    # On stderr, so that a command's output can be piped into a file.
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        progress.start()  # only once there is something to show: a mistake in the options must not leave an empty bar
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=total)
        progress.update(tasks[what], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            progress.stop()


def need(condition: object, message: str) -> None:
    """Raise `UsageError(message)` unless the condition holds."""
    if not condition:
        raise UsageError(message)


def _cell(value: Any) -> str:
    if value is None or type(value).__name__ == "NAType":  # pandas before 3 keeps its NA in columns of strings
        return "null"
    if isinstance(value, float):
        return "null" if math.isnan(value) else f"{value:.4g}"
    if hasattr(value, "__len__") and not isinstance(value, str):
        members = [_cell(member) for member in list(value)[:_SHOWN]]
        return f"[{', '.join(members)}]" if len(value) <= _SHOWN else f"[{', '.join(members)}, ...] ({len(value)})"
    return str(value)


def _mistake(message: str, *, hint: str = "") -> int:
    sentence = " ".join(message.split()).rstrip(".")
    typer.echo(f"ics: {sentence}{hint}", err=True)
    return MISTAKE


def _help_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"; see {context.command_path if context else 'ics'} --help"


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings of measurements as sentences, without file and line."""

    before = warnings.showwarning

    def show(message: Warning | str, *place: Any, **more: Any) -> None:
        if isinstance(message, MeasurementWarning):
            typer.echo(f"ics: note: {' '.join(str(message).split())}", err=True)
        else:
            before(message, *place, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _silence_stdout() -> None:
    """Keep the interpreter from reporting the closed pipe when it flushes stdout at exit."""
    import os
    import sys

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
