"""Lists of tensors as one vector: norms, distances and angles of gradients and parameters.

Every function takes the tensors of one vector as a sequence, accumulates in float64 (float32 on mps, which has none)
and returns a tensor on the device of the first, without synchronising. The order of the additions depends
on the shapes alone, so equal values give equal sums whatever their memory layout. No tensors at all make the vector of
no entries, of norm 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ics.stats.backends import fused_way
from ics.stats.layout import accumulator_dtype, require_floating

# Entries widened at a time. On a CPU they stay in the second-level cache (512 KiB in float64); elsewhere this bounds
# the memory that the float64 copies take.
_PART_ON_CPU = 2**16
_PART_ELSEWHERE = 2**24
_LONG = 2**18  # entries from which on a vector is worth kernels
_GROUP = 2**20  # entries of the differences that exist at once


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """Measure the l2 norm of the vector that all the tensors make together: one root of one sum, no sum of norms.

    Formula: `sqrt(sum(x^2))`. Unit: that of the tensors. Cost: one read. Raises `UsageError` for integers.

    Example:
        >>> float(norm([torch.tensor([3.0]), torch.tensor([[4.0]])]))
        5.0
    """
    if (kernels := _kernels(tensors)) is not None:
        return torch.linalg.vector_norm(_squares(kernels, tensors).sqrt())
    return _length(_norms([part for tensor in tensors for part in _split(tensor)]))


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Measure the l2 norm of each tensor by itself, shape (n,): `norm` of each, in one go.

    Example:
        >>> norms([torch.tensor([3.0, 4.0]), torch.tensor([[2.0]])]).tolist()
        [5.0, 2.0]
    """
    if (kernels := _kernels(tensors)) is not None:
        return _squares(kernels, tensors).sqrt()
    return _each(tensors, _norms([part for tensor in tensors for part in _split(tensor)]))


def distances(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Measure the l2 norm of the difference of each pair of tensors, shape (n,): `distance` of each, in one go.

    Example:
        >>> distances([torch.ones(4), torch.zeros(1)], [torch.zeros(4), torch.zeros(1)]).tolist()
        [2.0, 0.0]
    """
    if (kernels := _kernels([*a, *b])) is not None:
        return _squared_differences(kernels, a, b).sqrt()
    return _each(a, _differences(a, b))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Measure the inner product of two vectors whose tensors have the same shapes.

    Formula: `sum(a b)`. Unit: product of the two. Cost: one read. Raises `UsageError` for integers.

    Example:
        >>> float(dot([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 4.0])]))
        11.0
    """
    return _total([(_wide(x) * _wide(y)).sum() for x, y in _parts(a, b)])


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Measure the l2 norm of the difference of two vectors; exactly 0 for equal ones.

    Formula: `sqrt(sum((a - b)^2))`, the difference formed in the tensors' own type, which is what an optimizer
    changed in them. Unit: that of the tensors. Cost: one read. Raises `UsageError` for integers.

    Example:
        >>> float(distance([torch.ones(4)], [torch.zeros(4)]))
        2.0
    """
    if (kernels := _kernels([*a, *b])) is not None:
        return torch.linalg.vector_norm(_squared_differences(kernels, a, b).sqrt())
    return _length(_differences(a, b))


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Measure the cosine of the angle between two vectors: exactly 1 for identical ones, NaN where one is zero.

    Formula: `<a, b> / (||a|| ||b||)`, clamped to [-1, 1]. Unit: none. Cost: one read. Raises `UsageError` for integers.

    Example:
        >>> float(cosine([torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 2.0])]))
        0.0
    """
    if (kernels := _kernels([*a, *b])) is not None:
        products = [_products(kernels, x, y) for x, y in zip(a, b, strict=True)]
    else:
        pairs = ((_wide(x), _wide(y)) for x, y in _parts(_of_order_1(a), _of_order_1(b)))
        products = [torch.stack(((x * x).sum(), (y * y).sum(), (x * y).sum())) for x, y in pairs]
    aa, bb, ab = _total(products) if products else torch.zeros(3, dtype=torch.float64)
    value = (ab / aa.sqrt() / bb.sqrt()).clamp(-1.0, 1.0)
    return torch.where((aa == ab) & (bb == ab) & (ab > 0), 1.0, value)  # the roots' rounding must not show


def _kernels(tensors: Sequence[Tensor]) -> Any:
    """Return the kernels for long vectors of float32 on a CPU; None where separate operations do, or must do.

    For short ones calling is what costs, and compiling kernels for their sake would cost a user seconds.
    """
    if not all(x.is_cpu and x.dtype is torch.float32 and not x.is_sparse and not x.is_neg() for x in tensors):
        return None
    if sum(x.numel() for x in tensors) < _LONG:
        return None
    if not all(x.data_ptr() for x in tensors if x.numel()):  # a wrapper (DTensor) hides where its values are
        return None
    return getattr(fused_way("cpu"), "vectors", None)


def _squares(kernels: Any, tensors: Sequence[Tensor]) -> Tensor:
    flat = [_flat(x) for x in tensors]
    return torch.tensor([kernels.squares(x.data_ptr(), x.numel()) for x in flat], dtype=torch.float64)


def _squared_differences(kernels: Any, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    found = []
    for x, y in ((_flat(x), _flat(y)) for x, y in zip(a, b, strict=True)):
        assert x.shape == y.shape, "vectors differ in length"
        found.append(kernels.differences(x.data_ptr(), y.data_ptr(), x.numel()))
    return torch.tensor(found, dtype=torch.float64)


def _products(kernels: Any, x: Tensor, y: Tensor) -> Tensor:
    """Return <x, x>, <y, y> and <x, y>."""
    assert x.shape == y.shape, f"vectors differ in shape: {tuple(x.shape)} and {tuple(y.shape)}"
    x, y, found = _flat(x), _flat(y), torch.empty(3, dtype=torch.float64)
    kernels.products(x.data_ptr(), y.data_ptr(), x.numel(), found.data_ptr())
    return found


def _parts(a: Sequence[Tensor], b: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both vectors part by part: 1-dimensional tensors that hold the same entries of each."""
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape, f"vectors differ in shape: {tuple(x.shape)} and {tuple(y.shape)}"
        yield from zip(_split(x), _split(y), strict=True)


def _split(tensor: Tensor) -> Sequence[Tensor]:
    """Return the entries of a tensor in 1-dimensional parts of bounded size."""
    flat = _flat(tensor)
    size = _PART_ON_CPU if flat.is_cpu else _PART_ELSEWHERE
    return (flat,) if flat.numel() <= size else flat.split(size)


def _flat(tensor: Tensor) -> Tensor:
    """Return the entries in one row; of complex ones real and imaginary parts, which have the same norm and product."""
    values = require_floating(torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor)
    return (values.to_dense() if values.is_sparse else values).reshape(-1)  # sparse: the gradient of an Embedding


def _groups(parts: Iterable[tuple[Tensor, Tensor]]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield the parts in lists of one type and device, of bounded size: one call differs and measures a whole list."""
    group: list[tuple[Tensor, Tensor]] = []
    entries = 0
    for x, y in parts:
        alike = not group or (group[0][0].dtype, group[0][0].device) == (x.dtype, x.device)
        if entries > _GROUP or not alike:
            yield group
            group, entries = [], 0
        group.append((x, y))
        entries += x.numel()
    if group:
        yield group


def _norms(parts: Sequence[Tensor]) -> list[Tensor]:
    """Return the l2 norm of each part, accumulated wide. Per call the launches of one operation, not of each part."""
    if not parts:
        return []
    found = torch._foreach_norm(list(parts), 2, dtype=accumulator_dtype(parts[0].device))
    return list(found)


def _differences(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Return the l2 norm of each part of the difference of two vectors."""
    found: list[Tensor] = []
    for group in _groups(_parts(a, b)):
        xs, ys = zip(*group, strict=True)
        found += _norms(torch._foreach_sub(xs, ys))
    return found


def _each(tensors: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Return the norm of each tensor from those of the parts of all of them, on the device of the first."""
    if not parts:
        return torch.zeros(0, dtype=torch.float64)
    device = parts[0].device
    every = torch.stack([part.to(device) for part in parts])
    if len(parts) == len(tensors):
        return every
    num_parts = [len(_split(tensor)) for tensor in tensors]
    return torch.stack([torch.linalg.vector_norm(own) for own in every.split(num_parts)])


def _length(parts: Sequence[Tensor]) -> Tensor:
    """Return the norm of the whole from those of its parts, on the device of the first; 0 of none."""
    if not parts:
        return torch.zeros((), dtype=torch.float64)
    device = parts[0].device
    return torch.linalg.vector_norm(torch.stack([each.to(device) for each in parts]))


def _wide(part: Tensor) -> Tensor:
    return part.to(accumulator_dtype(part.device))


def _total(sums: Sequence[Tensor]) -> Tensor:
    """Return the sum of what the parts gave, on the device of the first; 0 of none."""
    if not sums:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack([part.to(sums[0].device) for part in sums]).sum(0)


def _of_order_1(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors divided by their largest entry where no wider type keeps their squares from underflowing."""
    flat = [_flat(tensor) for tensor in tensors]
    if all(x.dtype != accumulator_dtype(x.device) or x.numel() == 0 for x in flat):
        return flat
    largest = [x.abs().amax() for x in flat if x.numel()]
    unit = torch.stack([_wide(x).to(largest[0].device) for x in largest]).amax()
    unit = torch.where(unit > 0, unit, 1.0)
    return [_wide(x) / unit.to(x.device) for x in flat]
