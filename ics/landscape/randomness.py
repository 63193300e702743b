"""The state of every random number generator a model can draw from: taken once, put back before each evaluation."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RandomState:
    """States of Python's, numpy's and torch's generators, of those of the model's devices, and of those it holds.

    Attributes:
        python: state of the module `random`.
        numpy: state of `numpy.random`'s global generator; None if numpy is not imported.
        cpu: state of torch's CPU generator.
        devices: state of the generator of each device that the model's tensors are on.
        held: generators that modules keep as attributes, with their states.
    """

    python: tuple[Any, ...]
    numpy: Any
    cpu: Tensor
    devices: Mapping[torch.device, Tensor]
    held: tuple[tuple[torch.Generator, Tensor], ...]

    @classmethod
    def capture(cls, model: nn.Module) -> RandomState:
        """Return the present state; nothing is synchronised and no number is drawn.

        Example:
            >>> state = RandomState.capture(nn.Dropout())
            >>> first = torch.rand(2)
            >>> state.restore()
            >>> torch.equal(first, torch.rand(2))
            True
        """
        numpy = sys.modules.get("numpy")
        return cls(
            python=random.getstate(),
            numpy=None if numpy is None else numpy.random.get_state(),
            cpu=torch.get_rng_state(),
            devices={device: _device_state(device) for device in _devices(model)},
            held=tuple((generator, generator.get_state()) for generator in _generators(model)),
        )

    def restore(self) -> None:
        """Put every generator back into this state."""
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        for device, state in self.devices.items():
            _set_device_state(device, state)
        for generator, state in self.held:
            generator.set_state(state)


@contextmanager
def replayed(state: RandomState, model: nn.Module) -> Iterator[None]:
    """Draw the numbers that follow `state`, and leave the generators at the end as they were at the start."""
    now = RandomState.capture(model)
    state.restore()
    try:
        yield
    finally:
        now.restore()


def _devices(model: nn.Module) -> list[torch.device]:
    tensors = [*model.parameters(), *model.buffers()]
    return list(dict.fromkeys(tensor.device for tensor in tensors if tensor.device.type in ("cuda", "mps")))


def _generators(model: nn.Module) -> list[torch.Generator]:
    held = (value for module in model.modules() for value in vars(module).values())
    return list(dict.fromkeys(value for value in held if isinstance(value, torch.Generator)))


def _device_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.mps.get_rng_state()


def _set_device_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.mps.set_rng_state(state)
