"""Data sets by name: two that need no files, torchvision's, and any folder or archive of images."""

from __future__ import annotations

from pathlib import Path

import torch

from ics.errors import unknown_name
from ics.experiments.data.downloads import DOWNLOADS, load_download
from ics.experiments.data.examples import Data, Examples, Progress, image_data
from ics.experiments.data.images import load_images
from ics.experiments.training.config import RunConfig

NUM_GAUSSIAN_SAMPLES = 1000
GAUSSIAN_WIDTH = 10


def load_data(config: RunConfig, *, download: bool = False, progress: Progress | None = None) -> Data:
    """Return the data set that a configuration names.

    Args:
        config: its `data`, `data_root`, `image_size`, `limit` and `seed` count.
        download: fetch a torchvision data set that is not there. Without it nothing is ever asked of a network.
        progress: told of images being decoded.

    Raises:
        SelectionError: no data set has this name.
        UsageError: it is not there, or cannot be read.
    """
    name = config.data
    if name.startswith("images:"):
        path = Path(name.removeprefix("images:")).expanduser()
        return load_images(path, image_size=config.image_size, limit=config.limit, progress=progress)
    if name in ("digits", "gaussian"):
        return digits(limit=config.limit) if name == "digits" else gaussian(seed=config.seed)
    if name not in DOWNLOADS:
        near = unknown_name("data set", name, ["digits", "gaussian", *DOWNLOADS])
        raise type(near)(f"{near}; for a folder or archive of images type images:PATH")
    root = None if config.data_root is None else Path(config.data_root).expanduser()
    return load_download(name, root=root, limit=config.limit, download=download)


def digits(*, limit: int | None = None) -> Data:
    """Return the 1797 scans of handwritten digits, 8 x 8, that scikit-learn carries (Alpaydin & Kaynak 1998).

    A fifth is held out for testing, the same for every seed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    inputs = torch.from_numpy(bunch.images).to(torch.uint8)[:, None][order]
    targets = torch.from_numpy(bunch.target).to(torch.int64)[order]
    num_test = len(targets) // 5
    return image_data(
        train=Examples(inputs[num_test:], targets[num_test:]),
        test=Examples(inputs[:num_test], targets[:num_test]),
        classes=tuple(str(number) for number in range(10)),
        limit=limit,
    )


def gaussian(*, seed: int) -> Data:
    """Return x ~ N(0, 1) in 10 dimensions and y = A x with A ~ N(0, 1): 1000 samples (Santurkar 2018, sec. 3)."""
    # In float64, rounded batch by batch: nets of either precision then learn from the same data.
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(GAUSSIAN_WIDTH, GAUSSIAN_WIDTH, generator=generator, dtype=torch.float64)
    inputs = torch.randn(NUM_GAUSSIAN_SAMPLES, GAUSSIAN_WIDTH, generator=generator, dtype=torch.float64)
    return Data(
        train=Examples(inputs, inputs @ matrix.T),
        test=None,
        classes=(),
        num_outputs=GAUSSIAN_WIDTH,
        mean=torch.zeros(1),
        std=torch.ones(1),
    )
