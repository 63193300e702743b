"""What a recorder was told, and what its measured steps have found out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ics import schema
from ics.probes import ParameterWatch, Plans, Probes

_EVERYTHING: Mapping[str, Any] = {"sites": schema.SITES, "histogram": True, "per_channel": True}


@dataclass
class Seen:
    """What measured steps found out, and later ones need not."""

    layers: bool = False


@dataclass(frozen=True)
class Setup:
    """What a recorder was told, unchanged from step to step."""

    model: nn.Module
    loss_fn: Callable[[nn.Module, Any], Tensor] | None
    optimizer: torch.optim.Optimizer | None
    grad_scaler: torch.amp.GradScaler | None
    selection: Any
    grouping: Literal["paper", "leaf"]
    options: Mapping[str, Mapping[str, Any]]
    plans: Plans = field(default_factory=Plans)
    seen: Seen = field(default_factory=Seen)

    @cached_property
    def parameters(self) -> ParameterWatch:
        """The parameters of the model, from step to step."""
        return ParameterWatch(self.model)

    def probes(self, due: frozenset[str]) -> Probes:
        """Return probes for a step, not attached, that see what is due of the passes."""
        options = self.options
        return Probes(
            self.model,
            activations="activations" in due,
            gradients="gradients" in due,
            normalization="normalization" in due,
            layers=self.selection,
            loss_scale=None if self.grad_scaler is None else self.grad_scaler.get_scale(),
            plans=self.plans,
            gradient_options={**_EVERYTHING, **options.get("gradients", {})},
            normalization_per_channel=options.get("normalization", {}).get("per_channel", True),
            **{**_EVERYTHING, **options.get("activations", {})},
        )


def learning_rate(optimizer: torch.optim.Optimizer | None) -> float | None:
    """Return the learning rate of the first parameter group; None without an optimizer."""
    if optimizer is None:
        return None
    return float(optimizer.param_groups[0]["lr"])
