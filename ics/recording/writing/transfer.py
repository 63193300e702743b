"""From blocks on the device to the host: one copy per device and flush, none per statistic.

There are two halves. `send` runs in the training thread: it starts every copy and waits for none. `receive` may run in
another thread: it waits for the copies and returns the blocks with numpy arrays in place of tensors. `host_columns`
makes columns of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ics import schema
from ics.recording.writing.columns import as_lists, host_columns
from ics.recording.writing.host_blocks import HostBlock, TensorCells
from ics.records import Block, Stacked

HostColumns = dict[str, list[Any]]

_CHUNK = 16_384  # torch joins more numbers than these with several threads, which are the training's
_ALIGNMENT = 16  # bytes are viewed as a dtype only at a multiple of its size; complex128 is the largest


def to_host(blocks: Sequence[Block]) -> list[tuple[str, HostColumns]]:
    """Return the rows as (table, host columns); all tensors of a device are copied in one piece.

    Blocks of one table with the same columns are concatenated. A dense histogram becomes its non-empty buckets;
    moments of no values become null with their reason. Waits for the device.
    """
    return [
        (block.table, as_lists(host_columns(block, schema.table_named(block.table)))) for block in receive(send(blocks))
    ]


@dataclass(slots=True)
class _Piece:
    """Cells of a column on one device in one dtype, and their position in the device's copy.

    Attributes:
        rows: their rows.
        tensors: one tensor per cell; or a single tensor of which the cells are parts, numbered by `places`.
    """

    rows: np.ndarray
    tensors: Sequence[Tensor]
    copied: _Copy | None = None
    start: int = 0
    places: np.ndarray | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors[0].dtype

    @property
    def num_values(self) -> int:
        return sum(map(Tensor.numel, self.tensors))


@dataclass(slots=True)
class _Copy:
    """The copy from one device: pinned bytes on the host, and the event after which they have arrived."""

    host: Tensor
    event: torch.cuda.Event | None


@dataclass(frozen=True, slots=True)
class _Column:
    """A column with tensors in it."""

    num_rows: int
    others: dict[int, Any]
    pieces: list[_Piece]


@dataclass(frozen=True, slots=True)
class Sent:
    """Rows on their way to the host: tables and their columns, which are plain lists or contain tensors."""

    tables: list[tuple[str, dict[str, list[Any] | _Column]]] = field(default_factory=list)


@torch.no_grad()
def send(blocks: Sequence[Block]) -> Sent:
    """Start the copy of all tensors to the host and return at once.

    A GPU gathers the cells of each column with one kernel and copies everything in one piece to pinned memory, queued
    behind the work that computes it. Tensors in the host's memory are not copied here. They are read later, so nothing
    may write to the tensors of a block once it is sent.
    """
    sent = Sent()
    moving: dict[torch.device, list[_Piece]] = {}
    for table, columns in _merged(blocks):
        split = {name: _split(cells) for name, cells in columns.items()}
        sent.tables.append((table, split))
        for column in split.values():
            for piece in column.pieces if isinstance(column, _Column) else ():
                if piece.tensors[0].device.type != "cpu":
                    moving.setdefault(piece.tensors[0].device, []).append(piece)
    for device, pieces in moving.items():
        _start_copy(device, pieces)
    return sent


def receive(sent: Sent) -> list[HostBlock]:
    """Wait for the copies and return the rows on the host, in the order in which they were recorded."""
    return [
        HostBlock(
            table, {name: _arrived(cells) if isinstance(cells, _Column) else cells for name, cells in columns.items()}
        )
        for table, columns in sent.tables
    ]


def tensor_sizes(block: Block) -> list[int]:
    """Return how many values each tensor and array of a block has; one shared by many cells is counted once."""
    sizes = []
    for cells in block.columns.values():
        if isinstance(cells, Stacked):
            sizes.append(cells.stack.numel())
            cells = list(cells.others.values())
        if any(issubclass(kind, Tensor | np.ndarray) for kind in set(map(type, cells))):
            sizes += [cell.numel() for cell in cells if isinstance(cell, Tensor)]
            sizes += [cell.size for cell in cells if isinstance(cell, np.ndarray)]
    return sizes


def _merged(blocks: Iterable[Block]) -> list[tuple[str, dict[str, list[Sequence[Any]]]]]:
    """Return (table, columns); the blocks of one table with the same columns are grouped together.

    A column is a list of the cells of each block.
    """
    tables: dict[tuple[str, frozenset[str]], dict[str, list[Sequence[Any]]]] = {}
    for block in blocks:
        key = block.table, frozenset(block.columns)
        if key not in tables:
            tables[key] = {name: [] for name in block.columns}
        for name, parts in tables[key].items():
            parts.append(block.columns[name])
    return [(table, columns) for (table, _), columns in tables.items()]


def _split(parts: Sequence[Sequence[Any]]) -> list[Any] | _Column:
    """Return a column as it is; if it contains tensors, return them by device and dtype."""
    if not any(isinstance(part, Stacked) for part in parts):
        return _split_cells(list(chain.from_iterable(parts)))
    column, start = _Column(sum(map(len, parts)), {}, []), 0
    for part in parts:
        if isinstance(part, Stacked) and part.stack.is_cpu:
            places = np.array(part.places, np.int64)
            rows = np.flatnonzero(places >= 0)
            column.pieces.append(_Piece(rows + start, [part.stack], places=places[rows]))
            cells = _without_parts(part)
        else:
            cells = list(part)
        split = None if cells is None else _split_cells(cells)
        if isinstance(split, _Column):
            column.others.update({row + start: cell for row, cell in split.others.items()})
            for piece in split.pieces:
                piece.rows = piece.rows + start
            column.pieces.extend(split.pieces)
        elif split is not None:
            column.others.update({row + start: cell for row, cell in enumerate(split) if cell is not None})
        start += len(part)
    return column


def _without_parts(column: Stacked) -> list[Any] | None:
    """Return the cells of a stacked column that are not parts of its tensor; None if there are none."""
    if all(cell is None for cell in column.others.values()):
        return None
    return [column.others.get(row) for row in range(len(column))]


def _split_cells(cells: list[Any]) -> list[Any] | _Column:
    kinds = set(map(type, cells))
    if not any(issubclass(kind, Tensor) for kind in kinds):
        return cells
    if len(kinds) == 1:
        rows, tensors, others = np.arange(len(cells)), cells, {}
    else:
        mask = [isinstance(cell, Tensor) for cell in cells]
        rows, tensors = np.flatnonzero(mask), [cell for cell, is_tensor in zip(cells, mask, strict=True) if is_tensor]
        others = {row: cell for row, cell in enumerate(cells) if cell is not None and not mask[row]}
    places = list(zip(map(_DEVICE, tensors), map(_DTYPE, tensors), strict=True))
    if len(set(places)) == 1:
        return _Column(len(cells), others, [_Piece(rows, tensors)])
    pieces = []
    for place in dict.fromkeys(places):
        chosen = [number for number, one in enumerate(places) if one == place]
        pieces.append(_Piece(rows[chosen], [tensors[number] for number in chosen]))
    return _Column(len(cells), others, pieces)


_DEVICE, _DTYPE, _SHAPE = attrgetter("device"), attrgetter("dtype"), attrgetter("shape")


def _start_copy(device: torch.device, pieces: Sequence[_Piece]) -> None:
    """Gather the pieces of a device in one block of bytes and start its copy to the host."""
    size = 0
    for piece in pieces:
        piece.start = size
        size += -(-piece.num_values * piece.dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
    try:
        stretch = torch.empty(size, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:  # a full device: one by one, which waits for each copy but loses nothing
        for piece in pieces:
            piece.tensors = [tensor.cpu() for tensor in piece.tensors]
        return
    for piece in pieces:
        end = piece.start + piece.num_values * piece.dtype.itemsize
        flat = [tensor.detach().reshape(-1) for tensor in piece.tensors]
        torch.cat(flat, out=stretch[piece.start : end].view(piece.dtype))
    copied = _to_host_memory(stretch)
    for piece in pieces:
        piece.copied = copied


def _to_host_memory(stretch: Tensor) -> _Copy:
    if stretch.device.type != "cuda":
        return _Copy(stretch.cpu(), None)
    # Pinned, as a copy to pageable memory would wait for the device. torch keeps pinned memory that was given back, so
    # from the second flush on none is pinned anew.
    host = torch.empty(stretch.shape, dtype=torch.uint8, pin_memory=True)
    # An event is recorded on the current device: with a model on cuda:1 it would otherwise mark a stream of cuda:0.
    # `stretch` may be freed at once: its memory is reused only by later work of the same stream.
    with torch.cuda.device(stretch.device):
        host.copy_(stretch, non_blocking=True)
        event = torch.cuda.Event(blocking=True)  # the thread that waits sleeps: a spinning one would slow the training
        event.record()
    return _Copy(host, event)


def _arrived(column: _Column) -> TensorCells:
    if all(piece.places is not None for piece in column.pieces) and not column.others:
        parts = [_as_numpy(piece.tensors[0].detach())[piece.places] for piece in column.pieces]
        if len({part.shape[1:] for part in parts}) == 1:  # as it is as long as a net does the same at every step
            rows, values = np.concatenate([piece.rows for piece in column.pieces]), np.concatenate(parts)
            return TensorCells(rows, values.reshape(-1), [values.shape[1:]] * len(rows), {}, column.num_rows)
    cells = [
        TensorCells(piece.rows, _values(piece), _shapes(piece), column.others, column.num_rows)
        for piece in column.pieces
    ]
    return cells[0] if len(cells) == 1 else TensorCells.merged(cells)


def _shapes(piece: _Piece) -> list[tuple[int, ...]]:
    if piece.places is not None:
        return [tuple(piece.tensors[0].shape[1:])] * len(piece.rows)
    return list(map(tuple, map(_SHAPE, piece.tensors)))


def _values(piece: _Piece) -> np.ndarray | list[np.ndarray]:
    """Return the values of a piece on the host: in one array, cell after cell, or as arrays that are not copied."""
    if piece.places is not None:
        return list(_as_numpy(piece.tensors[0].detach())[piece.places])
    if piece.copied is None:
        if all(tensor.ndim == 0 for tensor in piece.tensors):
            return _joined([tensor.detach() for tensor in piece.tensors])
        return [_as_numpy(tensor.detach()) for tensor in piece.tensors]
    if piece.copied.event is not None:
        piece.copied.event.synchronize()
    end = piece.start + piece.num_values * piece.dtype.itemsize
    return _as_numpy(piece.copied.host[piece.start : end].view(piece.dtype))


def _joined(numbers: Sequence[Tensor]) -> np.ndarray:
    """Join numbers with torch, in chunks: a hundred times faster than one by one."""
    chunks = [torch.stack(list(numbers[start : start + _CHUNK])) for start in range(0, len(numbers), _CHUNK)]
    return np.concatenate([_as_numpy(chunk) for chunk in chunks])


def _as_numpy(tensor: Tensor) -> np.ndarray:
    """Return a tensor as numpy holds it; half precision is widened, which is exact."""
    wide = tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
    # torch only marks negated and conjugated views, and numpy() refuses tensors with such a mark.
    return wide.resolve_neg().resolve_conj().numpy()
