"""torchvision's data sets, from small files in their own formats; a network is never asked unless the user says so."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import socket
import struct
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets

from ics.errors import UsageError
from ics.experiments import DOWNLOADS, cache_folder, recipe
from ics.experiments.data.datasets import load_data
from ics.experiments.data.downloads import load_download


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None]]:
    """No network; lists the addresses asked for, with the time limit then in force."""
    asked: list[tuple[str, float | None]] = []

    def refuse(request: Any, *_: object, **__: object) -> None:
        asked.append((getattr(request, "full_url", str(request)), socket.getdefaulttimeout()))
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return asked


def idx(array: np.ndarray) -> bytes:
    """The IDX format: two zero bytes, type 8 (uint8), number of dimensions, sizes (big endian), values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist_files(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "train-images-idx3-ubyte": draw.integers(0, 256, (12, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(12, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": draw.integers(0, 256, (4, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(4, dtype=np.uint8),
    }


def write_cifar(root: Path, dataset: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Write a small data set as CIFAR's pickles, and have torchvision expect these files' checksums instead."""
    draw = np.random.default_rng(0)
    fine = "fine_labels" if dataset.__name__ == "CIFAR100" else "labels"
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    written: dict[str, np.ndarray] = {}

    def write(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for attribute in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(dataset, attribute):
            written[name] = draw.integers(0, 256, (10, 3072), dtype=np.uint8)
            sums.append([name, write(name, {"data": written[name], fine: list(range(10))})])
        monkeypatch.setattr(dataset, attribute, sums)
    names = {dataset.meta["key"]: [f"class {number}" for number in range(10)]}
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": write(dataset.meta["filename"], names)})
    return written


@pytest.mark.parametrize("name", DOWNLOADS)
def test_what_is_missing_is_an_error_at_once(tmp_path: Path, asked: list[Any], name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is not in .*type --download") as caught:
        load_data(recipe("mnist-sigmoid", data=name, data_root=str(tmp_path)))
    assert "\n" not in str(caught.value)
    assert asked == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_download_that_fails_is_one_sentence(tmp_path: Path, asked: list[Any], name: str) -> None:
    with pytest.raises(UsageError, match=r"could not be fetched.*no network in tests") as caught:
        load_data(recipe("mnist-sigmoid", data=name, data_root=str(tmp_path)), download=True)
    assert "\n" not in str(caught.value)
    assert asked
    assert all(limit is not None and limit <= 60 for _, limit in asked)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_from_raw_files(tmp_path: Path, asked: list[Any], name: str, folder: str) -> None:
    files = mnist_files()
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for file, array in files.items():
        (raw / file).write_bytes(idx(array))
    data = load_data(recipe("mnist-sigmoid", data=name, data_root=str(tmp_path)))
    assert data.input_shape == (1, 28, 28)
    assert np.array_equal(data.train.inputs[:, 0].numpy(), files["train-images-idx3-ubyte"])
    assert data.train.targets.tolist() == files["train-labels-idx1-ubyte"].tolist()
    assert data.test is not None
    assert np.array_equal(data.test.inputs[:, 0].numpy(), files["t10k-images-idx3-ubyte"])
    assert (data.num_outputs, len(data.classes), asked) == (10, 10, [])


def test_archives_that_are_there_are_unpacked_without_a_network(
    tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = mnist_files(seed=1)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    sums = []
    for file, array in files.items():
        (raw / f"{file}.gz").write_bytes(gzip.compress(idx(array)))
        sums.append((f"{file}.gz", hashlib.md5((raw / f"{file}.gz").read_bytes()).hexdigest()))
    with pytest.raises(UsageError, match="type --download"):  # torchvision knows other checksums
        load_download("mnist", root=tmp_path)
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    data = load_download("mnist", root=tmp_path)
    assert np.array_equal(data.train.inputs[:, 0].numpy(), files["train-images-idx3-ubyte"])
    assert asked == []


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file, array in mnist_files().items():
        (raw / file).write_bytes(idx(array)[:100])
    with pytest.raises(UsageError, match=r"mnist .* damaged.*download again"):
        load_download("mnist", root=tmp_path)


@pytest.mark.parametrize(("name", "class_name"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_from_its_pickles(
    tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch, name: str, class_name: str
) -> None:
    dataset = getattr(torchvision.datasets, class_name)
    written = write_cifar(tmp_path, dataset, monkeypatch)
    data = load_data(recipe("vgg11-cifar", data=name, data_root=str(tmp_path)))
    train = np.concatenate([written[file] for file, _ in dataset.train_list]).reshape(-1, 3, 32, 32)
    assert np.array_equal(data.train.inputs.numpy(), train)
    assert data.test is not None
    assert np.array_equal(data.test.inputs.numpy(), written[dataset.test_list[0][0]].reshape(-1, 3, 32, 32))
    assert data.train.targets[:10].tolist() == list(range(10))
    assert data.classes[3] == "class 3"
    assert asked == []


def test_cifar_with_a_wrong_checksum_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, torchvision.datasets.CIFAR10, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"something else")
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(UsageError, match="not whole; type --download"):
        load_download("cifar10", root=tmp_path)


@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter")  # torchvision 0.26 names no filter for tar
def test_a_cifar_archive_that_is_there_is_unpacked(
    tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = torchvision.datasets.CIFAR10
    write_cifar(tmp_path / "source", dataset, monkeypatch)
    archive = tmp_path / dataset.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "source" / dataset.base_folder, arcname=dataset.base_folder)
    monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(load_download("cifar10", root=tmp_path, limit=2).train) == 20
    assert asked == []


def test_data_lie_in_the_cache_folder_unless_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="ics/data"):
        load_download("mnist", root=None)
    assert cache_folder() == tmp_path / "cache" / "ics"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_folder() == Path.home() / ".cache" / "ics"
