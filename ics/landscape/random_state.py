"""The state of every random number generator a model can draw from: taken once, put back before each evaluation."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Mapping
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
        return _capture(_devices(model), _generators(model))

    def now(self) -> RandomState:
        """Return the present state of the same generators."""
        return _capture(self.devices, [generator for generator, _ in self.held])

    def equals(self, other: RandomState) -> bool:
        """Return whether no number was drawn between two states of the same generators."""
        tensors = [self.cpu, *self.devices.values(), *(state for _, state in self.held)]
        others = [other.cpu, *other.devices.values(), *(state for _, state in other.held)]
        if not all(map(torch.equal, tensors, others)):
            return False
        return self.python == other.python and _plain(self.numpy) == _plain(other.numpy)

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


def _capture(devices: Iterable[torch.device], generators: Iterable[torch.Generator]) -> RandomState:
    numpy = sys.modules.get("numpy")  # a program that never imported numpy draws nothing from it
    return RandomState(
        python=random.getstate(),
        numpy=None if numpy is None else numpy.random.get_state(),
        cpu=torch.get_rng_state(),
        devices={device: _device_state(device) for device in devices},
        held=tuple((generator, generator.get_state()) for generator in generators),
    )


def _plain(numpy_state: Any) -> Any:
    """Return numpy's state (name, words, position, ...) as something that compares with ==."""
    return numpy_state and (numpy_state[0], numpy_state[1].tobytes(), *numpy_state[2:])


def _devices(model: nn.Module) -> list[torch.device]:
    tensors = [*model.parameters(), *model.buffers()]
    return list(dict.fromkeys(tensor.device for tensor in tensors if tensor.device.type in ("cuda", "mps")))


def _generators(model: nn.Module) -> list[torch.Generator]:
    held = (value for module in model.modules() for value in vars(module).values())
    return list(dict.fromkeys(value for value in held if type(value) is torch.Generator))


def _device_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.mps.get_rng_state()


def _set_device_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.mps.set_rng_state(state)
