"""Lists of tensors as one vector: norms, distances and angles of gradients and parameters.

Every function takes the tensors of one vector as a sequence, accumulates in float64 (float32 where a device has no
float64) and returns a 0-dimensional tensor on the device, without synchronising.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """l2 norm of the vector that all the tensors make together: one root of one sum, never a sum of norms.

    Example:
        >>> float(norm([torch.tensor([3.0]), torch.tensor([[4.0]])]))
        5.0
    """
    return _norm([_wide(tensor) for tensor in tensors])


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of two vectors of the same tensors' shapes.

    Example:
        >>> float(dot([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 4.0])]))
        11.0
    """
    return torch.stack([(_wide(x) * _wide(y)).sum() for x, y in zip(a, b, strict=True)]).sum()


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """||a - b||; the difference is formed in the tensors' own precision, so that equal tensors give exactly 0.

    Example:
        >>> float(distance([torch.ones(4)], [torch.zeros(4)]))
        2.0
    """
    return _norm([_wide(x - y) for x, y in zip(a, b, strict=True)])


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Cosine of the angle between two vectors: exactly 1 for identical ones, NaN where one is zero.

    cos = <a, b> / (||a|| ||b||), computed on vectors scaled by their largest entry so that tiny gradients do not
    underflow, and clamped to [-1, 1].

    Example:
        >>> float(cosine([torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 2.0])]))
        0.0
    """
    a, b = _scaled(a), _scaled(b)
    product = dot(a, b)
    squares = dot(a, a) * dot(b, b)
    value = (product / squares.sqrt()).clamp(-1.0, 1.0)
    same = torch.stack([(x == y).all() for x, y in zip(a, b, strict=True)]).all() & (squares > 0)
    return torch.where(same, torch.ones_like(value), value)


def _scaled(tensors: Sequence[Tensor]) -> list[Tensor]:
    wide = [_wide(tensor) for tensor in tensors]
    filled = [tensor.abs().max() for tensor in wide if tensor.numel()]
    largest = torch.stack(filled).max() if filled else torch.ones(())
    return [tensor / largest for tensor in wide]


def _norm(wide: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in wide]).norm()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32 if tensor.device.type == "mps" else torch.float64)
