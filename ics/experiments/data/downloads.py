"""torchvision's data sets. Nothing is downloaded unless the user asks for it."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ics.errors import UsageError
from ics.experiments.data.examples import Data, Examples, image_data

DOWNLOADS: Mapping[str, tuple[str, str]] = {
    "mnist": ("MNIST", "12 MB"),
    "fashion-mnist": ("FashionMNIST", "31 MB"),
    "cifar10": ("CIFAR10", "170 MB"),
    "cifar100": ("CIFAR100", "169 MB"),
}
"""Name here to torchvision's class and the size of the download."""

_TIMEOUT = 30.0


def cache_folder() -> Path:
    """Return the folder where downloads and decoded images are kept: `$XDG_CACHE_HOME/ics` or `~/.cache/ics`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "ics"


def load_download(name: str, *, root: Path | None, limit: int | None = None, download: bool = False) -> Data:
    """Return one of torchvision's data sets.

    Args:
        name: a name in `DOWNLOADS`.
        root: the folder torchvision is given; None is `data` in the cache folder.
        limit: images per class and split; None is all.
        download: fetch what is not there. Archives that are there already are unpacked without a network.

    Raises:
        UsageError: the data set is not there and `download` is off; it cannot be fetched; its files are damaged.
    """
    import torchvision.datasets

    class_name, size = DOWNLOADS[name]
    dataset = getattr(torchvision.datasets, class_name)
    folder = cache_folder() / "data" if root is None else root
    if not _is_there(dataset, folder):
        if not download and not _archives_are_there(dataset, folder):
            raise UsageError(
                f"{name} is not in {folder}, or not whole; type --download (download=True) to fetch {size}, or "
                "data_root=FOLDER to say where it is"
            )
        _fetch(dataset, folder, name=name)
    train, test = (_open(dataset, folder, name=name, train=train) for train in (True, False))
    return image_data(train=_examples(train), test=_examples(test), classes=tuple(train.classes), limit=limit)


def _is_there(dataset: Any, folder: Path) -> bool:
    """Whether the unpacked files are there, and for CIFAR, whose files are pickles, have the right checksums."""
    probe = dataset.__new__(dataset)  # torchvision's own check needs a root, but its constructor would read everything
    probe.root = str(folder)
    return bool(probe._check_exists() if hasattr(probe, "_check_exists") else probe._check_integrity())


def _open(dataset: Any, folder: Path, *, name: str, train: bool) -> Any:
    try:
        return dataset(folder, train=train, download=False)
    except (RuntimeError, ValueError, AssertionError, EOFError, OSError, KeyError, pickle.UnpicklingError) as error:
        raise UsageError(
            f"the files of {name} in {folder} are damaged ({error}); delete them and download again"
        ) from error


def _fetch(dataset: Any, folder: Path, *, name: str) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)  # torchvision sets none, and a silent server would hang the command for ever
    try:
        dataset(folder, train=True, download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{name} could not be fetched into {folder}: {reason}; copy the files there and say data_root"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _archives_are_there(dataset: Any, folder: Path) -> bool:
    """Whether every archive is in its place and complete: torchvision then unpacks it without a network."""
    from torchvision.datasets.utils import check_integrity

    if hasattr(dataset, "resources"):
        return all(check_integrity(folder / dataset.__name__ / "raw" / file, md5) for file, md5 in dataset.resources)
    return bool(check_integrity(folder / dataset.filename, dataset.tgz_md5))


def _examples(opened: Any) -> Examples:
    """Unify the layouts: MNIST has a tensor (N, height, width), CIFAR an array (N, height, width, channels)."""
    images = torch.as_tensor(opened.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return Examples(images.contiguous(), torch.as_tensor(opened.targets, dtype=torch.int64))
