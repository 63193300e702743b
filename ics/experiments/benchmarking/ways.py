"""Ways to take the same training step: plain, and under recorders that record more and more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ics
from ics.errors import UsageError
from ics.experiments.benchmarking.timing import Clock
from ics.experiments.data.examples import Batch
from ics.experiments.nets.loading import load_model
from ics.experiments.nets.norms import NORMS
from ics.experiments.training.losses import cross_entropy
from ics.experiments.training.machine import find_device

WAYS = ("plain", "idle", *ics.PRESETS, "gradient_shift")
"""A plain step, one with a recorder at which nothing is due, the statistics of each preset, and the shift."""

STATISTICS = frozenset({"activations", "gradients", "normalization"})
"""The instruments that read training's own passes; all others add passes of their own."""

_NUM_CLASSES = 10
_SHAPES: Mapping[str, tuple[int, ...]] = {"mlp": (1, 8, 8), "deep_linear": (10,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is trained: a model as `ics.experiments.load_model` takes it, on random inputs and classes.

    Attributes:
        label: its name in the table.
        model: a name in `ics.experiments.MODELS`, or `"package.module:function"`.
        norm: a name in `ics.experiments.nets.norms.NORMS`.
        input_shape: shape of one input; None is what the model is made for.
        hidden: widths of an MLP's hidden layers; None is the model's own.
        batch_size: samples per step.
        device: as in `RunConfig`.
    """

    label: str
    model: str
    norm: str = "none"
    input_shape: tuple[int, ...] | None = None
    hidden: tuple[int, ...] | None = None
    batch_size: int = 32
    device: str = "auto"


DEFAULT_SETTINGS: tuple[Setting, ...] = (
    Setting(label="mlp-bn", model="mlp", norm="batch", input_shape=(100,), hidden=(100,) * 15, batch_size=128),
    Setting(label="resnet18-cifar", model="resnet18", norm="batch"),
    Setting(label="vgg16-bn-cifar", model="vgg16", norm="batch"),
)
"""A tiny model, whose steps are all overhead, and the two usual ones; about three minutes on two cores."""


class TimedTraining:
    """A model with its optimizer and one batch, ready to take steps with and without a recorder."""

    def __init__(self, setting: Setting, *, clock: Clock = time.perf_counter, check: bool = True) -> None:
        if setting.norm not in NORMS:
            raise UsageError(f"norm is one of {', '.join(NORMS)}; got {setting.norm!r}")
        torch.manual_seed(0)
        self.label = setting.label
        self.clock = clock
        self.device = find_device(setting.device)
        shape = setting.input_shape or _SHAPES.get(setting.model, (3, 32, 32))
        more: dict[str, Any] = {} if setting.hidden is None else {"hidden": setting.hidden}
        made = load_model(setting.model, input_shape=shape, num_outputs=_NUM_CLASSES, norm=setting.norm, **more)
        self.model: nn.Module = made.to(self.device)
        parameters = list(made.parameters())
        if not parameters:
            raise UsageError(f"{setting.model} has no parameters, so there is no step to time; type another model")
        self.optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
        inputs = torch.randn(setting.batch_size, *shape, device=self.device)
        self.batch: Batch = (inputs, torch.randint(_NUM_CLASSES, (setting.batch_size,), device=self.device))
        if check:
            self._try(setting)

    def plain(self) -> torch.Tensor:
        """Take a training step without a recorder."""
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model, self.batch)
        loss.backward()
        self.optimizer.step()
        return loss

    def recorded(self, recorder: ics.Recorder) -> torch.Tensor:
        """Take a training step as a user with a recorder would."""
        with recorder.step(self.batch) as step:
            loss = self.plain()
            step.log(loss=loss)
        return loss

    def recorder(self, way: str, interval: int, to: Path, **settings: Any) -> ics.Recorder:
        """Return the recorder of a way, due every `interval` steps."""
        settings |= chosen(way, interval)
        # Strict: what an instrument that failed and was switched off costs is not what it costs.
        return ics.Recorder(self.model, cross_entropy, to=to, optimizer=self.optimizer, strict=True, **settings)

    def _try(self, setting: Setting) -> None:
        try:
            self.plain()
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(
                f"{setting.model} cannot be trained on inputs of shape {tuple(self.batch[0].shape)} to {_NUM_CLASSES} "
                f"classes: {reason}; type --input-shape"
            ) from error


def chosen(way: str, interval: int) -> dict[str, Any]:
    """Return instruments and options of a way: of a preset those of the pass, as the others cost whole steps.

    Example:
        >>> chosen("light", 10)["instruments"]
        {'activations': Every(n=10, start=0)}
    """
    if way == "gradient_shift":
        return {"instruments": {"gradient_shift": ics.every(interval)}}
    preset = ics.PRESETS["full" if way == "idle" else way]
    # An idle recorder has instruments that are never due: what it costs is to ask them at every step.
    when = ics.at([2**62]) if way == "idle" else ics.every(interval)
    names = preset.schedules if way == "idle" else preset.schedules.keys() & STATISTICS
    return {"instruments": dict.fromkeys(sorted(names), when), "options": preset.options}
