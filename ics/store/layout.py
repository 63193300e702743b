"""The files in the folder of a run, which parts count, and how a file is written whole.

    runs/vgg-bn-0/
      run.json                                     replaced whole at every change
      steps/part-00000000-00000000.parquet         rows of flush 0
      steps/part-00000001-00000001.parquet         rows of flush 1
      activations/part-00000000-00000041.parquet   rows of flushes 0 to 41, merged

The names are the manifest. A part holds the rows of the flushes from its first to its last number. A part whose
numbers lie within those of another no longer counts. So the one rename that makes a merged part visible also retires
the parts it was made from, whether or not they have been deleted yet. At no moment is a row lost or doubled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

RUN_FILE = "run.json"
TEMPORARY = ".tmp-"
# Eight digits keep a listing in order; a run of more flushes has longer names, which `all_parts` sorts as numbers.
_PART = re.compile(r"part-(\d{8,})-(\d{8,})\.parquet")


def all_parts(folder: Path) -> list[Part]:
    """Return every finished part in the folder of a table, by first number, the widest first; may be empty."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    matches = (_PART.fullmatch(name) for name in names)
    parts = (Part(folder, int(match[1]), int(match[2])) for match in matches if match)
    return sorted(parts, key=lambda part: (part.first, -part.last))


def live_parts(folder: Path) -> list[Part]:
    """Return the parts that count: those that no other part covers.

    The folder is listed until two listings agree. A single listing that runs during a merge may miss both the new part
    and some of the old ones. The merged part exists before any old one is deleted, so the next listing shows it.
    """
    before, parts = None, all_parts(folder)
    while parts != before:
        before, parts = parts, all_parts(folder)
    return _uncovered(parts)


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file under another name, force it to disk, then rename it: the file exists whole or not at all."""
    # With the process number, so that two processes never write into one temporary file.
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # before the rename: after a power cut the name could otherwise stand for no data
        os.replace(temporary, path)  # unlike `rename`, replaces run.json on Windows too
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_table(folder: Path) -> None:
    """Remove the parts of a table, finished or not, and the folder if nothing else is in it."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _PART.fullmatch(path.name) or path.name.startswith(TEMPORARY):
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _uncovered(parts: Iterable[Part]) -> list[Part]:
    """Return the parts that no other covers; expects them by first number, the widest first."""
    # In this order a part can only be covered by one before it, so one look at the last kept one is enough.
    kept: list[Part] = []
    for part in parts:
        if not kept or part.last > kept[-1].last:
            kept.append(part)
    return kept


def _sync_folder(folder: Path) -> None:
    """Force a rename to disk. Windows cannot open a folder and needs no such step."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Part:
    """One immutable Parquet file: the rows of the flushes `first` to `last` of a table."""

    folder: Path
    first: int
    last: int

    @property
    def num_flushes(self) -> int:
        """How many flushes it holds."""
        return self.last - self.first + 1

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"part-{self.first:08d}-{self.last:08d}.parquet"
