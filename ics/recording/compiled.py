"""Compiled models: hooks are silently ignored by compiled code, so recorded steps run eagerly."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or the model itself; both share parameters and buffers."""
    return getattr(model, "_orig_mod", model)


def forced_eager() -> AbstractContextManager[object]:
    """Return a context in which whatever was compiled runs eagerly.

    Compiled code ignores hooks added after the first call, and even before it when an identical model was compiled
    earlier in the process; under this stance hooks fire, and outside it the compiled code is used again. A model
    cannot tell whether a function that calls it was compiled, so this asks only whether a compiler is loaded at all.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
