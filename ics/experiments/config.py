"""`RunConfig`: everything that decides how a training runs, in one frozen value that is stored whole in run.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ics.errors import UsageError, unknown_name
from ics.recording import Schedule, parse_schedule
from ics.recording.budget import check_target
from ics.recording.presets import preset_named
from ics.schema import TABLES

NORMS = ("none", "batch")
ACTIVATIONS = ("relu", "sigmoid", "tanh")
INITS = ("default", "glorot", "gaussian")
OPTIMIZERS = ("sgd", "adam", "adamw")
LOSSES = ("cross_entropy", "sum_squared_error")
DTYPES = ("float32", "float64")
INSTRUMENTS = tuple(name for name in TABLES if name != "steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The whole configuration of a run.

    Attributes:
        net: label of the net in tables and figures; runs of one net under several seeds share it.
        recipe: name of the recipe this came from, or `"custom"`.
        model: a name in `ics.experiments.MODELS`, or `"package.module:function"` for a model of your own.
        norm: normalisation after each layer but the last: `"none"` or `"batch"`.
        activation: activation function of the MLP: `"relu"`, `"sigmoid"` or `"tanh"`.
        hidden: widths of the MLP's hidden layers.
        init: `"default"` (as torch or torchvision initialises), `"glorot"` (uniform, biases 0) or `"gaussian"`
            (standard deviation 0.1, biases 0).
        data: `"digits"`, `"gaussian"`, `"mnist"`, `"fashion-mnist"`, `"cifar10"`, `"cifar100"`, or `"images:PATH"`.
        data_root: folder of the torchvision data sets; None is the user's cache folder.
        image_size: side in pixels that images of `"images:PATH"` are resized to; None keeps their size.
        limit: use only this many images per class and split; None is all.
        loss: `"cross_entropy"` (mean over samples) or `"sum_squared_error"` (sum over samples and outputs).
        batch_size: samples per step; None is all of them in every step.
        steps: optimizer steps.
        optimizer: `"sgd"`, `"adam"` or `"adamw"`.
        learning_rate: constant over the training.
        momentum: of SGD.
        weight_decay: coefficient of the optimizer's regulariser; never part of the loss that is measured.
        seed: of the initial weights, the order of the batches and, for `"gaussian"`, the data.
        instruments: instrument to the text of its schedule, e.g. `{"gradient_shift": "every(10)"}`; `"log_spaced(40)"`
            spreads over all steps of the training.
        preset: `"light"`, `"standard"` or `"full"`: which columns the instruments fill (`ics.recording.presets`), not
            when they are due; None is every column.
        budget: share of training time that recording may take, e.g. 0.02; None stretches no schedule.
        line_range: smallest and largest step size of gradient_line, as multiples of the learning rate.
        line_points: number of step sizes of gradient_line, spaced geometrically.
        layers: names or glob patterns of the layers to measure; None is all.
        evaluate_every: steps between two test accuracies; 0 is never.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, ..., or `"auto"`: the first CUDA device if there is one, else the CPU.
        dtype: `"float32"` or `"float64"`.
        num_threads: CPU threads of torch during the training; None leaves what is set. Small nets are fastest with 1.

    Raises:
        UsageError: a setting cannot be used; the message names it.

    Example:
        >>> config = RunConfig(net="standard", model="mlp", data="digits", steps=10, learning_rate=0.1, batch_size=32)
        >>> RunConfig.from_dict(config.as_dict()) == config
        True
    """

    net: str
    model: str
    data: str
    steps: int
    learning_rate: float
    batch_size: int | None
    recipe: str = "custom"
    norm: str = "none"
    activation: str = "relu"
    hidden: tuple[int, ...] = (64, 64, 64)
    init: str = "default"
    data_root: str | None = None
    image_size: int | None = None
    limit: int | None = None
    loss: str = "cross_entropy"
    optimizer: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    seed: int = 0
    instruments: Mapping[str, str] = field(default_factory=dict, hash=False)
    preset: str | None = None
    budget: float | None = None
    line_range: tuple[float, float] = (0.5, 4.0)
    line_points: int = 8
    layers: tuple[str, ...] | None = None
    evaluate_every: int = 0
    device: str = "auto"
    dtype: str = "float32"
    num_threads: int | None = None

    def __post_init__(self) -> None:
        # A frozen value must not change when the caller's list or dict does, and JSON knows lists but no tuples.
        _set(self, "hidden", _as_tuple("hidden", self.hidden))
        _set(self, "line_range", _as_tuple("line_range", self.line_range))
        _set(self, "layers", None if self.layers is None else _as_tuple("layers", self.layers))
        if not isinstance(self.instruments, Mapping):
            raise UsageError(
                f'instruments maps names to schedules, {{"gradient_shift": "every(10)"}}, got {self.instruments!r}'
            )
        _set(self, "instruments", dict(self.instruments))
        _check_texts(self)
        _check_numbers(self)
        _check_line(self)
        for instrument in self.instruments:
            if instrument not in INSTRUMENTS:
                raise unknown_name("instrument", str(instrument), INSTRUMENTS)
        if self.preset is not None:
            preset_named(self.preset)
        self.schedules()

    def as_dict(self) -> dict[str, Any]:
        """Return every setting as plain JSON values."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()} | {
            "instruments": dict(self.instruments)
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> RunConfig:
        """Return the configuration that `as_dict` wrote, e.g. `run.info["config"]`."""
        _check_names(settings)
        missing = [
            setting
            for setting in ("net", "model", "data", "steps", "learning_rate", "batch_size")
            if setting not in settings
        ]
        if missing:
            raise UsageError(f"a RunConfig needs {', '.join(missing)}, which the given settings lack")
        return cls(**settings)

    def schedules(self) -> dict[str, Schedule]:
        """Return instrument name to schedule, as `ics.Recorder` takes them."""
        return {name: parse_schedule(self._with_end(str(text))) for name, text in self.instruments.items()}

    def etas(self) -> list[float]:
        """Return the step sizes at which gradient_line looks, ascending.

        Example:
            >>> from ics.experiments import recipe
            >>> recipe("digits-mlp", learning_rate=0.1, line_range=(0.5, 2), line_points=3).etas()
            [0.05, 0.1, 0.2]
        """
        low, high = self.line_range
        ratio = (high / low) ** (1 / (self.line_points - 1))
        return [self.learning_rate * low * ratio**number for number in range(self.line_points)]

    def replace(self, **changes: Any) -> RunConfig:
        """Return a copy with some settings changed; an unknown name raises `SelectionError` with near matches."""
        _check_names(changes)
        return replace(self, **changes)

    def _with_end(self, schedule: str) -> str:
        """A schedule spaced over the training ends where the training does, also when `steps` is changed."""
        if schedule.startswith("log_spaced(") and "until" not in schedule:
            return schedule.replace(")", f", until={self.steps})", 1)
        return schedule


def _set(config: RunConfig, name: str, value: object) -> None:
    object.__setattr__(config, name, value)


def _as_tuple(name: str, values: object) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(f"{name} is a list, got {values!r}; type [{values!r}]")
    return tuple(values)


def _check_names(settings: Mapping[str, Any]) -> None:
    known = [setting.name for setting in fields(RunConfig)]
    for name in settings:
        if name not in known:
            raise unknown_name("setting", str(name), known)


def _check_texts(config: RunConfig) -> None:
    for name in ("net", "recipe", "model", "data", "device"):
        value = getattr(config, name)
        if not isinstance(value, str) or not value:
            raise UsageError(f"{name} is a text that is not empty, got {value!r}")
    choices = {
        "norm": NORMS,
        "activation": ACTIVATIONS,
        "init": INITS,
        "loss": LOSSES,
        "optimizer": OPTIMIZERS,
        "dtype": DTYPES,
    }
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise UsageError(f"{name} is one of {', '.join(allowed)}; got {getattr(config, name)!r}")


def _check_numbers(config: RunConfig) -> None:
    smallest = {
        "steps": 1,
        "batch_size": 1,
        "image_size": 1,
        "limit": 1,
        "num_threads": 1,
        "seed": 0,
        "evaluate_every": 0,
    }
    optional = ("batch_size", "image_size", "limit", "num_threads")
    for name, least in smallest.items():
        value = getattr(config, name)
        if value is None and name in optional:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise UsageError(f"{name} is a whole number of at least {least}, got {value!r}")
    for name in ("learning_rate", "momentum", "weight_decay"):
        value = getattr(config, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
            raise UsageError(f"{name} is a finite number of at least 0, got {value!r}")
    if config.budget is not None:
        check_target(config.budget)
    if config.momentum >= 1:
        raise UsageError(f"momentum is below 1, got {config.momentum!r}")
    if config.momentum and config.optimizer != "sgd":
        raise UsageError(f"momentum belongs to sgd, got {config.momentum!r} with {config.optimizer}; type momentum=0")
    for width in config.hidden:
        if not isinstance(width, int) or width < 1:
            raise UsageError(f"hidden holds widths of at least 1, got {width!r}")


def _check_line(config: RunConfig) -> None:
    ends = config.line_range
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or not 0 < ends[0] < ends[1] < math.inf:
        raise UsageError(f"line_range is the smallest and the largest multiple, 0 < smallest < largest, got {ends!r}")
    if not isinstance(config.line_points, int) or config.line_points < 2:
        raise UsageError(f"line_points is a whole number of at least 2, got {config.line_points!r}")
