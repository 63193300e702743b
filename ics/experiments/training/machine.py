"""The machine that a training runs on: device, random generators, threads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ics.errors import UsageError


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (on every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # NumPy takes no larger seed, torch does
    torch.manual_seed(seed)


def find_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the first CUDA device if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"there is no device {name!r} here ({reason}); type device='cpu' or device='auto'") from error
    return device


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Let torch use `number` CPU threads inside the block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def draws_undone(device: torch.device) -> Iterator[None]:
    """Restore the generators of the CPU and of `device` afterwards: training draws the same numbers again."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
