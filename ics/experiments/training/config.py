"""`RunConfig`: everything that decides how a training runs, in one frozen value that is stored whole in run.json."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import ics
from ics.errors import UsageError, unknown_name
from ics.experiments.training.checks import as_mapping, as_tuple, check
from ics.experiments.training.optimizers import canonical_optimizer

_NEEDED = ("net", "model", "data", "steps", "learning_rate", "batch_size")
_TUPLES = ("hidden", "line_range", "layers")
_MAPPINGS: Mapping[str, str] = {
    "instruments": '{"gradient_shift": "every(10)"}',
    "options": '{"gradient_line": {"num_random": 2}}',
    "optimizer_settings": '{"betas": [0.9, 0.99]}',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The whole configuration of a run.

    Attributes:
        net: label of the net in tables and figures; runs of one net under several seeds share it.
        recipe: name of the recipe this came from, or `"custom"`.
        model: a name in `ics.experiments.MODELS`, or `"package.module:function"` for a model of your own.
        norm: normalisation of each layer but the last: a name in `ics.experiments.nets.norms.NORMS`.
        activation: activation function: a name in `ics.experiments.nets.activations.ACTIVATIONS`.
        hidden: widths of the MLP's hidden layers.
        bias: whether layers that a normalisation follows have a bias, which batch normalisation cancels.
        dropout: fraction of activations set to 0 in training, after each activation function; 0 puts in no dropout.
        init: of the weights: a name in `ics.experiments.nets.initialisations.INITS`; `"default"` is torch's own.
        data: `"digits"`, `"gaussian"`, `"mnist"`, `"fashion-mnist"`, `"cifar10"`, `"cifar100"`, or `"images:PATH"`.
        data_root: folder of the torchvision data sets; None is the user's cache folder.
        image_size: side in pixels that images of `"images:PATH"` are resized to; None keeps their size.
        limit: use only this many images per class and split; None is all.
        loss: `"cross_entropy"` (mean over samples) or `"sum_squared_error"` (sum over samples and outputs).
        batch_size: samples per step; None is all of them in every step.
        steps: optimizer steps.
        gaussian_penalty: strength of the penalty that pulls pre-activations towards N(0, 1), in units of the loss per
            nat (`ics.experiments.training.penalty`). It is part of the loss that is trained and measured; the table
            `steps` has it apart, `loss` being the data loss alone. 0 is none.
        optimizer: an optimizer of `torch.optim` by name, in any case: `"sgd"`, `"AdamW"`, `"rmsprop"`, ...
        learning_rate: constant over the training.
        momentum: of an optimizer that has one.
        weight_decay: coefficient of the optimizer's regulariser; never part of the loss that is measured.
        optimizer_settings: its further arguments by torch's names, e.g. `{"betas": [0.9, 0.99]}`.
        whiten_after_step: standardise every hidden layer's pre-activations after each step, by changing its weights
            (`ics.experiments.training.whitening`).
        one_layer_per_step: `"update"`: each step moves one layer only; `"sign"`: it moves all, but lets one layer only
            change the sign of weights (`ics.experiments.training.one_layer`); None moves all.
        seed: of the initial weights, the order of the batches and, for `"gaussian"`, the data.
        instruments: instrument to the text of its schedule, e.g. `{"gradient_shift": "every(10)"}`; `"log_spaced(40)"`
            spreads over all steps of the training.
        options: keyword options by instrument, as `ics.Recorder` takes them; they come before those of a preset, e.g.
            `{"gradient_line": {"num_random": 2}}`.
        preset: `"light"`, `"standard"` or `"full"`: which columns the instruments fill (a name in `ics.PRESETS`), not
            when they are due; None is every column.
        budget: share of training time that recording may take, e.g. 0.02; None stretches no schedule.
        line_range: smallest and largest step size of gradient_line, as multiples of the learning rate.
        line_points: number of step sizes of gradient_line, spaced geometrically.
        layers: names or glob patterns of the layers to measure; None is all.
        evaluate_every: steps between two evaluations on test and training examples
            (`ics.experiments.training.evaluation` names their columns of `steps`); 0 is never.
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
    bias: bool = True
    dropout: float = 0.0
    init: str = "default"
    data_root: str | None = None
    image_size: int | None = None
    limit: int | None = None
    loss: str = "cross_entropy"
    gaussian_penalty: float = 0.0
    optimizer: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimizer_settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    whiten_after_step: bool = False
    one_layer_per_step: str | None = None
    seed: int = 0
    instruments: Mapping[str, str] = field(default_factory=dict, hash=False)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
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
        for name in _TUPLES:
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else as_tuple(name, value))
        for name, example in _MAPPINGS.items():
            object.__setattr__(self, name, as_mapping(name, getattr(self, name), example=example))
        object.__setattr__(self, "optimizer", canonical_optimizer(self.optimizer))
        check({setting.name: getattr(self, setting.name) for setting in fields(self)})
        self.schedules()

    def as_dict(self) -> dict[str, Any]:
        """Return every setting as plain JSON values."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        values |= {name: copy.deepcopy(values[name]) for name in _MAPPINGS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> RunConfig:
        """Return the configuration that `as_dict` wrote, e.g. `run.info["config"]`."""
        _check_names(settings)
        missing = [setting for setting in _NEEDED if setting not in settings]
        if missing:
            raise UsageError(f"a RunConfig needs {', '.join(missing)}, which the given settings lack")
        return cls(**settings)

    def schedules(self) -> dict[str, ics.Schedule]:
        """Return instrument name to schedule, as `ics.Recorder` takes them."""
        return {name: ics.parse_schedule(self._with_end(str(text))) for name, text in self.instruments.items()}

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
        """Let a schedule that is spaced over the training end with it, also when `steps` changes."""
        if schedule.startswith("log_spaced(") and "until" not in schedule:
            return schedule.replace(")", f", until={self.steps})", 1)
        return schedule


def _check_names(settings: Mapping[str, Any]) -> None:
    allowed = [setting.name for setting in fields(RunConfig)]
    for name in settings:
        if name not in allowed:
            raise unknown_name("setting", str(name), allowed)
