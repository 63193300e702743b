"""Nets of the experiments, built from seed 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ics.experiments import load_model

IMAGE, VECTOR = (3, 32, 32), (10,)


def shape_for(name: str) -> tuple[int, ...]:
    return VECTOR if name == "deep_linear" else IMAGE


def build(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return load_model(name, **{"input_shape": shape_for(name)} | settings)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
