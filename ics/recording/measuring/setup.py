"""The recorder's settings, and what its measured steps have found out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ics.errors import UsageError
from ics.landscape.extra_parameters import ExtraParameters
from ics.probes import ParameterWatch, Plans, Probes, select_layers
from ics.probes.structure.grouping import declared_layers
from ics.recording.measuring.batch_reading import Reading
from ics.recording.optimizers import Optimizers
from ics.records import Layer

SHARDED = (
    "the model is sharded (FSDP) and gathers its parameters itself, so it cannot be run again at other values of them; "
    "train unsharded (DistributedDataParallel) to measure this"
)
_SHARDING = {"FullyShardedDataParallel", "FSDPModule"}


@dataclass
class Found:
    """What measured steps found out, and later ones need not find again.

    Attributes:
        layers: in the order of execution.
        readings: what lists turned out to be, by what they were taken for: whether micro-batches.
    """

    layers: tuple[Layer, ...] = ()
    readings: dict[bool, Reading] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """The settings of a recorder, the same at every step.

    Attributes:
        model: the model, without what compiles it.
        loss_fn: the loss that is trained, if it was given.
        optimizers: whose steps these are; none if none was given.
        grad_scaler: what scales the loss, if anything does.
        selection: which layers were asked for.
        grouping: which modules make up a layer.
        in_the_pass: options of the instruments that share one look at training's passes.
        extra: parameters of the loss that are not the model's.
    """

    model: nn.Module
    loss_fn: Callable[[nn.Module, Any], Tensor] | None
    optimizers: Optimizers
    grad_scaler: torch.amp.GradScaler | None
    selection: Any
    grouping: Literal["paper", "leaf"]
    in_the_pass: Mapping[str, Mapping[str, Any]]
    extra: ExtraParameters = field(default_factory=ExtraParameters)
    plans: Plans = field(default_factory=Plans)
    found: Found = field(default_factory=Found)

    def __post_init__(self) -> None:
        check_layers(self.model, self.selection)

    @cached_property
    def is_sharded(self) -> bool:
        """Whether hooks of the model's wrapper exchange its parameters, which a pass of ours would confuse."""
        return any(_SHARDING & {kind.__name__ for kind in type(each).__mro__} for each in self.model.modules())

    @cached_property
    def parameters(self) -> ParameterWatch:
        """The parameters of the model and of the loss, from step to step."""
        return ParameterWatch(self.model, beside=self.extra.parameters)

    def probes(self, due: frozenset[str]) -> Probes:
        """Return probes, not yet attached, for what is due in the passes of a step."""
        options = self.in_the_pass
        return Probes(
            self.model,
            activations="activations" in due,
            gradients="gradients" in due,
            normalization="normalization" in due,
            layers=self.selection,
            # Read before the block: `scaler.update()` within it changes the scale that this backward pass used.
            loss_scale=None if self.grad_scaler is None else self.grad_scaler.get_scale(),
            plans=self.plans,
            gradient_options=options["gradients"],
            normalization_per_channel=options["normalization"]["per_channel"],
            **options["activations"],
        )


def check_layers(model: nn.Module, selection: Any) -> None:
    """Raise `UsageError` for a selection that no module of the model fits; what fits may still never run.

    A predicate may ask for what is known only of layers that ran, and a lazy module has no parameters to count yet.
    """
    if selection is not None and not any(isinstance(each, UninitializedParameter) for each in model.parameters()):
        try:
            select_layers(declared_layers(model), selection)
        except Exception as error:
            asks = callable(selection) and not isinstance(selection, type)
            if not asks and isinstance(error, UsageError):
                raise
