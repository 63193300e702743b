"""Compiled models: hooks are silently ignored by compiled code, so recorded steps run eagerly."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or the model itself; both share parameters and buffers."""
    return getattr(model, "_orig_mod", model)


def forced_eager(model: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which a compiled model runs eagerly; does nothing for a model without compiled parts.

    `torch.compile` ignores hooks added after the first call, and even before it when an identical model was
    compiled earlier in the process; under this stance they fire, and outside it the compiled code is used again.
    """
    return torch.compiler.set_stance("force_eager") if _is_compiled(model) else nullcontext()


def _is_compiled(model: nn.Module) -> bool:
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
