"""Which tensor is which: the first tensor of anything a module takes or returns, and a map by identity."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from ctypes import string_at
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

V = TypeVar("V")


def first_tensor(value: Any) -> Tensor | None:
    """Return the first floating-point tensor in a tensor, tuple, list, mapping or nest of them; None if there is none.

    A tensor is taken whole: its batch axis is never iterated over. Integer, boolean, complex, sparse and nested
    tensors have no moments and are passed over.
    """
    if isinstance(value, Tensor):
        return value if _has_moments(value) else None
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return None
    return next((tensor for item in value if (tensor := first_tensor(item)) is not None), None)


def holds_complex(value: Any) -> bool:
    """Return whether there is a complex tensor in a tensor, tuple, list, mapping or nest of them."""
    if isinstance(value, Tensor):
        return value.is_complex()
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return False
    return any(map(holds_complex, value))


def _has_moments(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_nested


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written to in place; 0 for inference tensors, which do not count."""
    try:
        return tensor._version
    except RuntimeError:  # asked first, `is_inference` would give up the interpreter's lock each time
        return 0


_MOST_CHECKED = 2**10
"""Bytes of a tensor that are compared; reading them takes less than calling a function.

A write to a whole tensor (`.data.zero_()`, a clamp) changes its middle too. Single values are found once per plan, when
all of a tensor is compared.
"""

Window = tuple[int, int]
"""Bytes before, and number of bytes, in the memory of a tensor."""


def window_of(shape: Sequence[int], stride: Sequence[int], itemsize: int) -> Window:
    """Return the part of a tensor's memory that is compared: all of it, or its middle."""
    size = _num_bytes(shape, stride, itemsize)
    return max(0, size - _MOST_CHECKED) // 2, min(size, _MOST_CHECKED)


def whole_window(tensor: Tensor) -> Window:
    """Return all of a tensor's memory."""
    return 0, _num_bytes(tensor.shape, tensor.stride(), tensor.element_size())


def _num_bytes(shape: Sequence[int], stride: Sequence[int], itemsize: int) -> int:
    """Return how far a tensor reaches in memory, gaps included: more of it need not be its own."""
    return 0 if 0 in shape else itemsize * (1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)))


def content_of(tensor: Tensor, window: Window | None = None) -> bytes | None:
    """Return the bytes of a tensor on a CPU, None of others.

    They tell a write that no version tells: through `.data` or numpy.

    Args:
        tensor: the tensor.
        window: the part of it; default as `window_of` says.
    """
    if not tensor.is_cpu:
        return None
    offset, size = window_of(tensor.shape, tensor.stride(), tensor.element_size()) if window is None else window
    return string_at(tensor.data_ptr() + offset, size)


class undisturbed:  # noqa: N801  (used as a function is)
    """Compute beside a running pass: no graph, no autocast, unseen by function modes.

    Without it autocast would round the statistics to bfloat16, and every function mode of the user (and our own)
    would see and pay for each operation of ours. A class, since a generator takes three times as long to enter.
    """

    __slots__ = ("_autocast", "_functions", "_graph")

    def __init__(self, tensor: Tensor) -> None:
        kind = tensor.device.type
        self._autocast = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else None

    def __enter__(self) -> None:
        self._functions = torch._C.DisableTorchFunction()
        self._functions.__enter__()
        self._graph = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        if self._autocast is not None:
            self._autocast.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._autocast is not None:
            self._autocast.__exit__(kind, error, traceback)
        torch._C._set_grad_enabled(self._graph)
        self._functions.__exit__(kind, error, traceback)


class TensorMap(Generic[V]):
    """Values kept for tensors while they are alive and have not been written to: same object, same version.

    Tensors are held weakly, so nothing lives longer because it is looked at.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Tensor], int, V]] = {}

    def __setitem__(self, tensor: Tensor, value: V) -> None:
        self._entries[id(tensor)] = (weakref.ref(tensor), version_of(tensor), value)

    def get(self, tensor: Tensor | None) -> V | None:
        """Return what was set for this very tensor; None if nothing was or its values have changed since."""
        if tensor is None or (entry := self._entries.get(id(tensor))) is None:
            return None
        reference, version, value = entry
        return value if reference() is tensor and version == version_of(tensor) else None

    def forget(self, tensor: Tensor) -> None:
        """Drop what was set for a tensor."""
        self._entries.pop(id(tensor), None)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
