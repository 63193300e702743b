"""Folders and archives of images: which image is what, decoded exactly, kept, and mistakes said in one sentence."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ics.errors import UsageError
from ics.experiments import load_images
from ics.experiments.data import images

CIFAR = Path(__file__).parents[4] / "shared" / "data" / "cifar10-jpeg.tar.xz"
FLAT = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(5)]
SPLIT = [
    f"{split}/{label}/{number}.png" for split in ("train", "test") for label in ("cat", "dog") for number in (0, 1)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ics" / "images"


def pixels_of(name: str, size: tuple[int, int] = (4, 3)) -> np.ndarray:
    """RGB pixels that differ from name to name."""
    return np.random.default_rng(list(name.encode())).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)


def encoded(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write_folder(root: Path, names: list[str], size: tuple[int, int] = (4, 3)) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(pixels_of(name, size)))
    return root


def write_archive(path: Path, names: list[str], *, prefix: str = "", mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name in names:
            content = encoded(pixels_of(name))
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def inputs_of(names: list[str]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(pixels_of(name).transpose(2, 0, 1).copy()) for name in names])


def test_a_folder_with_train_and_test(tmp_path: Path) -> None:
    data = load_images(write_folder(tmp_path / "set", SPLIT))
    assert data.classes == ("cat", "dog")
    assert torch.equal(data.train.inputs, inputs_of([name for name in SPLIT if name.startswith("train")]))
    assert data.train.targets.tolist() == [0, 0, 1, 1]
    assert data.test is not None
    assert torch.equal(data.test.inputs, inputs_of([name for name in SPLIT if name.startswith("test")]))
    assert data.test.targets.tolist() == [0, 0, 1, 1]


def test_without_a_test_folder_every_fifth_image_is_held_out(tmp_path: Path) -> None:
    data = load_images(write_folder(tmp_path / "set", FLAT))
    assert data.test is not None
    assert torch.equal(data.test.inputs, inputs_of(["cat/4.png", "dog/4.png"]))
    assert torch.equal(data.train.inputs, inputs_of([name for name in FLAT if "4" not in name]))


def test_few_images_without_a_test_folder_leave_none_to_test(tmp_path: Path) -> None:
    assert load_images(write_folder(tmp_path / "set", FLAT[:1] + FLAT[-1:])).test is None


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("prefix", ["", "./", "cifar/png/"])
def test_an_archive_reads_as_the_folder_does(tmp_path: Path, mode: str, prefix: str) -> None:
    archive = write_archive(tmp_path / "set.tar", SPLIT[::-1], prefix=prefix, mode=mode)
    expected, data = load_images(write_folder(tmp_path / "set", SPLIT)), load_images(archive)
    assert torch.equal(data.train.inputs, expected.train.inputs)
    assert torch.equal(data.test.inputs, expected.test.inputs)
    assert (data.classes, data.train.targets.tolist()) == (expected.classes, expected.train.targets.tolist())


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["train/a/1.png", "train/b/1.png", "val/a/2.png"], ["train/a/1.png", "train/b/1.png"], ["val/a/2.png"]),
        (["Train/a/1.png", "Train/b/1.png", "Val/a/2.png"], ["Train/a/1.png", "Train/b/1.png"], ["Val/a/2.png"]),
        (["train/a/1.png", "train/b/1.png", "val/a/2.png", "test/b/3.png"], None, ["test/b/3.png"]),
        (["train/a/images/1.png", "train/b/images/1.png"], ["train/a/images/1.png", "train/b/images/1.png"], []),
        (["vehicles/train/1.png", "vehicles/bus/1.png"], ["vehicles/bus/1.png", "vehicles/train/1.png"], []),
        (["x/a/1.png", "x/b/1.png", "x/stray.png"], ["x/a/1.png", "x/b/1.png"], []),
    ],
)
def test_folders_name_split_and_class(names: list[str], train: list[str] | None, test: list[str]) -> None:
    places = images.split_images(names, path=Path("set")).places
    assert [name for name, (held_out, _) in places.items() if held_out] == test
    if train is not None:
        assert [name for name, (held_out, _) in places.items() if not held_out] == train


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", SPLIT)
    for name in ("train/README.txt", "train/cat/._0.png", ".git/x/1.png", "__MACOSX/train/cat/0.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no image")
    assert len(load_images(root).train) == 4


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", SPLIT)
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(root / "train/cat/0.png")
    Image.fromarray(np.dstack([grey] * 3 + [grey * 0])).save(root / "train/cat/1.png")
    expected = torch.from_numpy(grey).expand(2, 3, 3, 4)
    assert torch.equal(load_images(root).train.inputs[:2], expected)


def test_limit_takes_the_first_by_name(tmp_path: Path) -> None:
    data = load_images(write_folder(tmp_path / "set", SPLIT), limit=1)
    assert torch.equal(data.train.inputs, inputs_of(["train/cat/0.png", "train/dog/0.png"]))
    assert data.test is not None
    assert len(data.test) == 2


def test_images_of_several_sizes_need_a_side(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", SPLIT)
    write_folder(root, ["train/dog/0.png"], size=(6, 5))
    with pytest.raises(UsageError, match=r"differ in size.*3 x 4 and 5 x 6.*image_size"):
        load_images(root)
    data = load_images(root, image_size=8)
    assert data.input_shape == (3, 8, 8)
    expected = Image.fromarray(pixels_of("train/dog/0.png", (6, 5))).resize((8, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(data.train.inputs[2].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", SPLIT)
    broken = root / "train/dog/1.png"
    for content in (b"", b"no image at all", broken.read_bytes()[:60]):
        broken.write_bytes(content)
        with pytest.raises(UsageError, match=r"train/dog/1.png cannot be decoded") as caught:
            load_images(root)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no images"),
        (["1.png", "2.png"], "holds 0 folders"),
        (["cat/1.png"], "at least two"),
        (["train/cat/1.png"], "holds 1 folders"),
        (["test/cat/1.png", "test/dog/1.png"], "holds 0 folders of training images"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], "test images of c"),
    ],
)
def test_what_is_no_data_set_gets_one_sentence(tmp_path: Path, names: list[str], message: str) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(UsageError, match=message):
        load_images(write_folder(tmp_path / "set", names))


def test_a_missing_path_and_a_file_that_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing at"):
        load_images(tmp_path / "absent")
    (tmp_path / "text.tar").write_text("no archive")
    with pytest.raises(UsageError, match="neither a folder nor"):
        load_images(tmp_path / "text.tar")


@pytest.mark.parametrize(("mode", "keep"), [("w", 4096 + 7), ("w", 4096 + 519), ("w:gz", 300), ("w:xz", 300)])
def test_an_archive_cut_short(tmp_path: Path, mode: str, keep: int) -> None:
    """A plain archive in a header and in a file; compressed ones anywhere."""
    whole = write_archive(tmp_path / "set.tar", SPLIT, mode=mode).read_bytes()
    assert len(whole) > keep
    (tmp_path / "set.tar").write_bytes(whole[:keep])
    with pytest.raises(UsageError, match="whole tar archive"):
        load_images(tmp_path / "set.tar")


def test_decoded_images_are_kept_until_a_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, archive = write_folder(tmp_path / "set", SPLIT), write_archive(tmp_path / "set.tar", SPLIT)
    first = [load_images(source) for source in (root, archive)]
    monkeypatch.setattr(images, "_decode", lambda *_, **__: pytest.fail("decoded again"))
    second = [load_images(source) for source in (root, archive)]
    for before, after in zip(first, second, strict=True):
        assert torch.equal(before.train.inputs, after.train.inputs)
        assert torch.equal(before.test.targets, after.test.targets)
        assert before.classes == after.classes
    assert len(list(cache.iterdir())) == 2
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    (root / "train/cat/0.png").write_bytes(encoded(pixels_of("another", (4, 3))))
    assert not torch.equal(load_images(root).train.inputs, first[0].train.inputs)


@pytest.mark.parametrize("keep", [0, 1000])
def test_a_damaged_cache_is_decoded_anew(tmp_path: Path, cache: Path, keep: int) -> None:
    root = write_folder(tmp_path / "set", SPLIT)
    expected = load_images(root)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:keep])
    assert torch.equal(load_images(root).train.inputs, expected.train.inputs)


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path, cache: Path) -> None:
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file in the way")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert len(load_images(write_folder(tmp_path / "set", SPLIT)).train) == 4


def test_progress_ends_at_the_number_of_images(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    load_images(write_folder(tmp_path / "set", SPLIT), progress=lambda *call: calls.append(call))
    assert calls[-1] == ("decoding images", 8, 8)


@pytest.mark.skipif(not CIFAR.exists(), reason=f"{CIFAR} is not there")
def test_a_slice_of_real_jpegs() -> None:
    data = load_images(CIFAR, limit=3)
    assert data.train.inputs.shape == (30, 3, 32, 32)
    assert data.test is not None
    assert data.test.targets.bincount().tolist() == [3] * 10
    assert data.classes[0] == "airplane"
    with tarfile.open(CIFAR) as archive:
        member = next(member for member in archive if member.name == "train/airplane/0001.jpg")
        content = archive.extractfile(member)
        assert content is not None
        expected = np.asarray(Image.open(content).convert("RGB"))
    assert np.array_equal(data.train.inputs[1].permute(1, 2, 0).numpy(), expected)
