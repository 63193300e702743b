"""What is trained: three nets of different sizes, and an ordinary training of one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ics.experiments.nets.models import mlp, resnet18, vgg16

NUM_CLASSES = 10
NUM_BATCHES = 4

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Net:
    """A net and the data it is trained on.

    Attributes:
        label: what it is, for a table.
        make: `make(input_shape=..., num_outputs=..., norm="batch")` returns the model.
        input_shape: shape of one input.
        batch_size: inputs in a batch.
        block: plain or `ics` steps that are timed in one go; 200 is the number after which a recorder flushes, so
            that a block of a small net holds its share of writing.
        slow_block: the same for what takes tens of plain steps.
        threads: threads of torch; a step of a few milliseconds gains nothing from a second, and where the thread that
            writes needs one of two cores, its operations wait for each other.
    """

    label: str
    make: Callable[..., nn.Module]
    input_shape: tuple[int, ...]
    batch_size: int = 128
    block: int = 1
    slow_block: int = 1
    threads: int = 2


def _mlp16(**options: object) -> nn.Module:
    return mlp(hidden=(100,) * 15, **options)  # type: ignore[arg-type]


def _tiny(**options: object) -> nn.Module:
    return mlp(hidden=(16, 16), **options)  # type: ignore[arg-type]


NETS: Mapping[str, Net] = {
    "mlp": Net("MLP, 16 linear layers of width 100, BatchNorm", _mlp16, (100,), block=200, slow_block=2, threads=1),
    "resnet18": Net("ResNet-18, 32 x 32", resnet18, (3, 32, 32)),
    "vgg16_bn": Net("VGG-16-BN, 32 x 32", vgg16, (3, 32, 32)),
    "tiny": Net("MLP, 3 linear layers of width 16, BatchNorm", _tiny, (16,), 32, block=20, slow_block=2, threads=1),
}
FULL_SUITE = ("mlp", "resnet18", "vgg16_bn")


class Training:
    """An ordinary training: cross-entropy, SGD with momentum, a few batches in turns. Every one starts alike.

    Args:
        net: what is trained.
        folder: where what is recorded goes.
    """

    def __init__(self, net: Net, folder: Path) -> None:
        torch.manual_seed(0)
        self.model = net.make(input_shape=net.input_shape, num_outputs=NUM_CLASSES, norm="batch")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.folder = folder
        self.steps = 0
        self._batches = make_batches(net)

    def next_batch(self) -> Batch:
        """Return the batch of the next step."""
        self.steps += 1
        return self._batches[self.steps % len(self._batches)]

    def update(self, batch: Batch) -> Tensor:
        """Train on a batch and return the loss."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        loss.backward()
        self.optimizer.step()
        return loss

    def step(self) -> None:
        """Take one plain step."""
        self.update(self.next_batch())


@lru_cache(maxsize=1)
def make_batches(net: Net) -> tuple[Batch, ...]:
    """Return the batches that all trainings of a net share: normal inputs, random labels."""
    generator = torch.Generator().manual_seed(0)
    shape = (net.batch_size, *net.input_shape)
    return tuple(
        (
            torch.randn(shape, generator=generator),
            torch.randint(NUM_CLASSES, (net.batch_size,), generator=generator),
        )
        for _ in range(NUM_BATCHES)
    )
