"""Statistics as cells of a row, and per channel as one tensor: a site then costs one buffer, a stack of sites one set
of operations.

The rows of a packed tensor are `PACKED`, in that order; `ics.tensor_statistics` says what they mean. Counts are whole
numbers in the floating type (exact below 2^53; on mps, which has no float64, below 2^24). The row of `saturated_count`
is NaN where there are no asymptotes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ics.errors import UsageError
from ics.stats.moments import Moments, combined, pool
from ics.tensor_statistics import PACKED_ROWS, TENSOR_STATISTICS

PACKED = PACKED_ROWS
_SATURATED = PACKED.index("saturated_count")


def pack(moments: Moments) -> Tensor:
    """Return the statistics as one tensor, shape (rows, C) from fields (C,), or (..., rows, C) from fields (..., C).

    Example:
        >>> from ics.stats import channel_moments
        >>> pack(channel_moments(torch.tensor([[1.0], [3.0]]), channel_axis=1))[:3, 0].tolist()
        [2.0, 2.0, 1.0]
    """
    like = moments.mean
    rows = [getattr(moments, name) for name in PACKED]
    return torch.stack([torch.full_like(like, torch.nan) if row is None else row.to(like.dtype) for row in rows], -2)


def unpack(packed: Tensor, *, has_asymptotes: bool | None = None) -> Moments:
    """Return the statistics of a packed tensor (..., rows, C), each of shape (..., C).

    Args:
        packed: as `pack` or `reduce` returned it, or a stack of such.
        has_asymptotes: whether there are asymptotes; False gives `saturated_count` None. None looks whether the row is
            NaN, which waits for the device once, so pass it if you know.

    Raises:
        UsageError: the tensor has not a row for each statistic; or some of a stack have asymptotes and some not, and
            `Moments` has no place for both.

    Example:
        >>> from ics.stats import reduce
        >>> unpack(reduce(torch.tensor([[1.0], [3.0]]), channel_axis=1).moments).mean.tolist()
        [2.0]
    """
    rows = _rows(packed)
    if has_asymptotes is None:
        missing = rows[_SATURATED].isnan()
        has_asymptotes = not bool(missing.all()) or missing.numel() == 0
        if has_asymptotes and bool(missing.any()):
            raise UsageError(
                "a stack must have asymptotes in all of its rows or in none, but some have them; unpack them one by one"
            )
    numbers: dict[str, Any] = {
        each.name: row.to(torch.int64) if each.is_count else row
        for each, row in zip(TENSOR_STATISTICS, rows, strict=True)
    }
    return Moments(**(numbers if has_asymptotes else numbers | {"saturated_count": None}))


def merged(first: Tensor, second: Tensor) -> Tensor:
    """Return the packed statistics (..., rows, C) of the union of two sets of values, row by row: `merge`, as packed.

    A `saturated_count` that is NaN on either side is NaN.

    Example:
        >>> from ics.stats import reduce
        >>> halves = [reduce(part, channel_axis=1).moments for part in torch.arange(8.0).reshape(8, 1).split(4)]
        >>> merged(*halves)[:2, 0].tolist()
        [8.0, 3.5]
    """
    return pack(combined(_whole(torch.stack((first, second)).unbind(-2))))


def columns(moments: Moments) -> dict[str, Tensor | None]:
    """Return the cells of a row of table `activations` or `gradients`, from the statistics per channel.

    Keys are the pooled columns (without the histogram), `saturated_fraction`, and the `channel_` columns of
    `ics.schema`. The two saturated fractions are None where `saturated_count` is. Undefined numbers (of no finite
    value) are NaN here, since only the host can know that the count was 0; recording stores them as null.

    Example:
        >>> from ics.stats import channel_moments
        >>> cells = columns(channel_moments(torch.tensor([[0.0, 5.0], [3.0, 7.0]]), channel_axis=1))
        >>> cells["zero_fraction"].item(), cells["channel_mean"].tolist()
        (0.25, [1.5, 6.0])
    """
    pooled = cells(pool(moments))
    return pooled | {f"channel_{name}": cell for name, cell in cells(moments).items()}


def cells(moments: Moments) -> dict[str, Tensor | None]:
    """Return the columns of the statistics, without prefix: counts of zero, negative and saturated as fractions."""
    found: dict[str, Tensor | None] = {}
    for statistic in TENSOR_STATISTICS:
        value: Tensor | None = getattr(moments, statistic.name)
        if value is not None and statistic.average is not None:
            value = value.to(moments.mean.dtype) / moments.count
        found[statistic.column] = value
    return found


def columns_of(packed: Tensor, *, per_channel: bool = True) -> dict[str, Tensor]:
    """Return the cells of S rows of table `activations` or `gradients` at once, from their packed statistics.

    The same numbers as `columns` row by row: the pooled columns (S,) and the `channel_` columns (S, C). One set of
    small operations per stack, whatever S. What is undefined is NaN, the saturated fractions of rows without asymptotes
    included. No host synchronisation.

    Args:
        packed: (S, rows, C), rows of one number of channels.
        per_channel: whether to return the `channel_` columns.

    Raises:
        UsageError: the tensor has not the shape (S, rows, C).

    Example:
        >>> from ics.stats import reduce
        >>> rows = [reduce(torch.full((4, 2), value), channel_axis=1).moments for value in (1.0, 2.0)]
        >>> columns_of(torch.stack(rows))["mean"].tolist()
        [1.0, 2.0]
    """
    if packed.ndim != 3:
        raise UsageError(
            f"a stack of packed statistics has the shape (S, {len(PACKED)}, C), but {tuple(packed.shape)} came; "
            "type torch.stack([reduced.moments for reduced in ...])"
        )
    each = _whole(_rows(packed))
    pooled = cells(combined(Moments(*(getattr(each, name).T for name in PACKED))))
    if per_channel:
        pooled |= {f"channel_{name}": cell for name, cell in cells(each).items()}
    return {name: cell for name, cell in pooled.items() if cell is not None}


def _rows(packed: Tensor) -> tuple[Tensor, ...]:
    if packed.ndim < 2 or packed.shape[-2] != len(PACKED):
        raise UsageError(
            f"packed statistics have the shape (..., {len(PACKED)}, C), but {tuple(packed.shape)} came; "
            "type stats.pack(moments)"
        )
    return packed.unbind(-2)


def _whole(rows: tuple[Tensor, ...]) -> Moments:
    """Return the statistics with counts as integers. `saturated_count` stays as it is: it may be NaN in some rows."""
    whole = [each.is_count and not each.needs_asymptotes for each in TENSOR_STATISTICS]
    return Moments(*(row.to(torch.int64) if own else row for own, row in zip(whole, rows, strict=True)))
