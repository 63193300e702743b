"""Any folder or tar archive of images, with a folder per class, as tensors.

    PATH/cat/1.png  PATH/dog/2.jpg                   a fifth of each class is held out for testing
    PATH/train/cat/1.png  PATH/test/cat/2.png        test/ is held out; val/ where there is no test/

Folders above these, which archives often have, are skipped. Decoded images stay in the cache folder and are reused as
long as the files do not change.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from ics.errors import UsageError
from ics.experiments.data.archives import SUFFIXES, Source, open_source
from ics.experiments.data.downloads import cache_folder
from ics.experiments.data.examples import Data, Examples, Progress, image_data

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
HELD_OUT = 5
"""Without a test folder every `HELD_OUT`-th image of a class is held out."""

Arrays = dict[str, np.ndarray[Any, Any]]
_PROGRESS_EVERY = 250


@dataclass(frozen=True, slots=True)
class ImageSplit:
    """Which images make up the data set: class names, and image name to (is it held out, class number)."""

    classes: tuple[str, ...]
    places: Mapping[str, tuple[bool, int]]


def load_images(
    path: str | Path, *, image_size: int | None = None, limit: int | None = None, progress: Progress | None = None
) -> Data:
    """Return the images below a folder or inside a tar archive, as RGB.

    Args:
        path: a folder, or a .tar, .tar.gz, .tar.bz2 or .tar.xz file.
        image_size: side in pixels that every image is resized to; None keeps their common size.
        limit: only the first so many images of each class, by name, in training and in test.
        progress: called as `progress("decoding images", done, total)`.

    Raises:
        UsageError: the path is missing, holds no images in folders per class, holds an image that cannot be decoded,
            or images of different sizes without `image_size`.

    Example:
        >>> data = load_images("cifar10-jpeg.tar.xz", limit=100)  # doctest: +SKIP
        >>> data.train.inputs.shape  # doctest: +SKIP
        torch.Size([1000, 3, 32, 32])
    """
    path = Path(path)
    source = open_source(path)
    # Raise the 1 when the decoding changes, or images that an older version cached would be used.
    key = hashlib.sha256(f"1|{source.fingerprint}|{image_size}|{limit}".encode()).hexdigest()[:32]
    kept = cache_folder() / "images" / f"{key}.npz"
    decoded = _from_cache(kept)
    if decoded is None:
        split = split_images(source.names(), path=path, limit=limit)
        decoded = _decode_all(source, split, path=path, image_size=image_size, progress=progress)
        _to_cache(kept, decoded)
    images, targets, held_out = (torch.from_numpy(decoded[part]) for part in ("images", "targets", "held_out"))
    return image_data(
        train=Examples(images[~held_out], targets[~held_out]),
        test=Examples(images[held_out], targets[held_out]),
        classes=tuple(str(name) for name in decoded["classes"]),
    )


def split_images(names: Collection[str], *, path: Path, limit: int | None = None) -> ImageSplit:
    """Decide from names alone which class and split every image belongs to.

    Example:
        >>> split_images(["x/train/cat/1.png", "x/train/dog/1.png", "x/test/cat/2.png"], path=Path("x.tar")).places
        {'x/test/cat/2.png': (True, 0), 'x/train/cat/1.png': (False, 0), 'x/train/dog/1.png': (False, 1)}
    """
    if not names:
        raise UsageError(f"{path} holds no images; expected a folder per class with {', '.join(SUFFIXES)} files")
    labels = _labels(names)
    classes = tuple(sorted({label for held_out, label in labels.values() if not held_out}))
    if len(classes) < 2:
        raise UsageError(
            f"{path} holds {len(classes)} folders of training images; expected one per class, at least two"
        )
    strange = sorted({label for _, label in labels.values()} - set(classes))
    if strange:
        raise UsageError(f"{path} has test images of {', '.join(strange[:3])}, but no training images of that class")
    return ImageSplit(classes, _choose(labels, classes, limit=limit))


def _labels(names: Collection[str]) -> dict[str, tuple[bool, str]]:
    """Image name to (is it held out, class name), in the order of names."""
    folders = {name: PurePosixPath(name).parts[:-1] for name in sorted(names)}
    splits = {name: _find_split(parts) for name, parts in folders.items()}
    present = {split for split, _ in splits.values()}
    if not present & {*TRAIN_FOLDERS, *TEST_FOLDERS}:
        common = _num_common(folders.values())
        return {name: (False, parts[common]) for name, parts in folders.items() if len(parts) > common}
    test = next((folder for folder in TEST_FOLDERS if folder in present), None)
    return {name: (split == test, label) for name, (split, label) in splits.items() if split in (*TRAIN_FOLDERS, test)}


def _num_common(folders: Iterable[tuple[str, ...]]) -> int:
    """How many leading folders all paths share."""
    return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False)))


def _find_split(folders: tuple[str, ...]) -> tuple[str, str]:
    """The first folder called train, test, ... that has a folder below it, and that folder; else two empty texts."""
    for split, label in pairwise(folders):
        if split.lower() in (*TRAIN_FOLDERS, *TEST_FOLDERS):
            return split.lower(), label
    return "", ""


def _choose(
    labels: Mapping[str, tuple[bool, str]], classes: tuple[str, ...], *, limit: int | None
) -> dict[str, tuple[bool, int]]:
    """Hold out test images where there is no test folder, and keep the first `limit` per class and split."""
    has_test = any(held_out for held_out, _ in labels.values())
    seen = dict.fromkeys(classes, 0)
    taken: dict[tuple[bool, int], int] = {}
    places = {}
    for name, (held_out, label) in labels.items():
        seen[label] += 1
        place = (held_out if has_test else seen[label] % HELD_OUT == 0, classes.index(label))
        taken[place] = taken.get(place, 0) + 1
        if limit is None or taken[place] <= limit:
            places[name] = place
    return places


def _decode_all(
    source: Source, split: ImageSplit, *, path: Path, image_size: int | None, progress: Progress | None
) -> Arrays:
    """Images (N, 3, height, width), targets (N,) and held_out (N,) in the order of the split, and class names."""
    index = {name: number for number, name in enumerate(split.places)}
    images = np.empty((0, 0, 0, 0), dtype=np.uint8)
    for done, (name, content) in enumerate(source.read(index), start=1):
        pixels = _decode(content, name=f"{path}/{name}", image_size=image_size)
        if done == 1:
            images = np.empty((len(index), *pixels.shape), dtype=np.uint8)
        if pixels.shape != images.shape[1:]:
            sizes = " and ".join(f"{shape[1]} x {shape[2]}" for shape in (images.shape[1:], pixels.shape))
            raise UsageError(
                f"the images in {path} differ in size ({sizes} pixels); type image_size=32, or another side"
            )
        images[index[name]] = pixels
        if progress is not None and (done % _PROGRESS_EVERY == 0 or done == len(index)):
            progress("decoding images", done, len(index))
    held_out, targets = zip(*split.places.values(), strict=True)
    return {
        "images": images,
        "targets": np.array(targets, dtype=np.int64),
        "held_out": np.array(held_out, dtype=np.bool_),
        "classes": np.array(split.classes, dtype=np.str_),
    }


def _decode(content: bytes, *, name: str, image_size: int | None) -> np.ndarray[Any, Any]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{name} cannot be decoded as an image ({error}); mend or delete it") from error
    if image_size is not None and pixels.size != (image_size, image_size):
        pixels = pixels.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(pixels).transpose(2, 0, 1)


def _from_cache(kept: Path) -> Arrays | None:
    """Return what was decoded before; None if nothing complete is there."""
    try:
        with open(kept, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, BadZipFile):
        return None


def _to_cache(kept: Path, decoded: Arrays) -> None:
    unfinished = kept.with_suffix(f".{os.getpid()}.tmp")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "wb") as file:
            np.savez(file, **decoded)  # type: ignore[arg-type]  # the stubs know only savez's own keywords
        os.replace(unfinished, kept)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        warnings.warn(f"the decoded images could not be kept in {kept.parent} ({error})", UserWarning, stacklevel=3)
