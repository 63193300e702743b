"""The origin of a run, as run.json records it: versions, device, git commit, layers."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch
from torch import nn

import ics
from ics.records import Layer

_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "pyarrow", "scipy")


def provenance(model: nn.Module) -> dict[str, Any]:
    """Return versions, device, thread count and the git commit of the working directory (null if there is none)."""
    return {
        "versions": {"python": platform.python_version(), "ics": ics.__version__, **_package_versions()},
        "device": _device_name(model),
        "num_threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "model": {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
    }


def layers_as_json(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """Return layers as run.json holds them, in execution order."""
    return [
        {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(layer).items()}
        for layer in layers
    ]


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _device_name(model: nn.Module) -> str:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _git_commit() -> str | None:
    # The commit is a courtesy: a git that is missing, slow or asks a question must not hold up a training.
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
