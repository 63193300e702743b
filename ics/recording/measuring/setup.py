"""What a recorder was told, and what its measured steps have found out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ics.errors import UsageError
from ics.probes import ParameterWatch, Plans, Probes, select_layers
from ics.probes.structure.grouping import declared_layers
from ics.records import Layer

SHARDED = (
    "the model is sharded (FSDP) and gathers its parameters itself, so it cannot be run again at other values of them; "
    "train unsharded (DistributedDataParallel) to measure this"
)
_SHARDING = {"FullyShardedDataParallel", "FSDPModule"}


@dataclass
class Found:
    """What measured steps found out, and later ones need not find again."""

    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Setup:
    """What a recorder was told, unchanged from step to step.

    Attributes:
        model: the model, without what compiles it.
        loss_fn: the loss that is trained, if it was given.
        optimizer: whose steps these are, if it was given.
        grad_scaler: what scales the loss, if anything does.
        selection: which layers were asked for.
        grouping: which modules make up a layer.
        in_the_pass: options of the instruments that share one look at training's passes.
    """

    model: nn.Module
    loss_fn: Callable[[nn.Module, Any], Tensor] | None
    optimizer: torch.optim.Optimizer | None
    grad_scaler: torch.amp.GradScaler | None
    selection: Any
    grouping: Literal["paper", "leaf"]
    in_the_pass: Mapping[str, Mapping[str, Any]]
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
        """The parameters of the model, from step to step."""
        return ParameterWatch(self.model)

    def probes(self, due: frozenset[str]) -> Probes:
        """Return probes for a step, not attached, that see what is due of the passes."""
        options = self.in_the_pass
        return Probes(
            self.model,
            activations="activations" in due,
            gradients="gradients" in due,
            normalization="normalization" in due,
            layers=self.selection,
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
