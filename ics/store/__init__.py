"""Runs on disk: written in immutable parts while a training goes on, read as frames without torch."""

from ics.store.describe import schema_markdown
from ics.store.reader import Run, open_run
from ics.store.runs import Runs, open_runs
from ics.store.where import Where
from ics.store.writer import Writer

__all__ = ["Run", "Runs", "Where", "Writer", "open_run", "open_runs", "schema_markdown"]
