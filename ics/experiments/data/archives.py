"""The image files below a folder or inside a tar archive: their names, and their bytes one by one."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path

from ics.errors import UsageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm")
_DAMAGED = (tarfile.TarError, EOFError, OSError, LZMAError, zlib.error)


@dataclass(frozen=True, slots=True)
class Source:
    """Where images are.

    Attributes:
        fingerprint: a text that changes when a file is added, removed or written.
        names: returns the names of the image files, with slashes, in no particular order; an archive is read through.
        read: yields (name, bytes) of the chosen files, in the order that is cheapest to read.
    """

    fingerprint: str
    names: Callable[[], list[str]]
    read: Callable[[Collection[str]], Iterator[tuple[str, bytes]]]


def open_source(path: Path) -> Source:
    """Return what a folder or archive holds. Archives are read in place and never unpacked onto the disk.

    Raises:
        UsageError: nothing is there; `names` and `read` raise it for what is no whole tar archive.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise UsageError(f"there is nothing at {path}; expected a folder or a tar archive of images")
    facts = path.stat()
    fingerprint = f"{path.resolve()}|{facts.st_mtime_ns}|{facts.st_size}"
    return Source(fingerprint, partial(_list_archive, path), partial(_read_archive, path))


def is_image(name: str) -> bool:
    """Return whether a file name is that of an image; hidden files and macOS's resource forks are not.

    Example:
        >>> is_image("./train/cat/1.JPEG"), is_image("train/cat/._1.jpg"), is_image("README.txt")
        (True, False, False)
    """
    if not name.lower().endswith(SUFFIXES):
        return False
    return not any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in name.split("/"))


def _open_folder(path: Path) -> Source:
    names = []
    facts = hashlib.sha256(str(path.resolve()).encode())
    for folder, subfolders, files in os.walk(path, followlinks=True):
        subfolders.sort()  # in place, which os.walk follows: the fingerprint must not depend on the disk's order
        for file in sorted(files):
            name = Path(folder, file).relative_to(path).as_posix()
            if is_image(name):
                status = os.stat(os.path.join(folder, file))
                facts.update(f"{name}|{status.st_mtime_ns}|{status.st_size}\n".encode())
                names.append(name)
    return Source(facts.hexdigest(), lambda: names, partial(_read_folder, path))


def _read_folder(path: Path, chosen: Collection[str]) -> Iterator[tuple[str, bytes]]:
    for name in chosen:
        yield name, (path / name).read_bytes()


def _list_archive(path: Path) -> list[str]:
    try:
        with tarfile.open(path) as archive:
            names = [member.name for member in archive if member.isfile() and is_image(member.name)]
            _check_end(archive)
            return names
    except _DAMAGED as error:
        raise UsageError(f"{path} is neither a folder nor a whole tar archive of images ({error})") from error


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise if the archive is cut short: tarfile takes a garbled header for the end, which is zeros or nothing."""
    assert archive.fileobj is not None, "the archive is open"
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("it is cut short or damaged")


def _read_archive(path: Path, chosen: Collection[str]) -> Iterator[tuple[str, bytes]]:
    # In the order of the archive: going back in a compressed one means decompressing it from the start again.
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name in chosen:
                content = archive.extractfile(member)
                assert content is not None, "extractfile gives None for members that are no files"
                yield member.name, content.read()
