"""Rows of blocks, and what numpy says about a tensor: the oracle of every statistic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from ics.probes import Probes
from ics.recording.writing.host_blocks import TensorCells
from ics.recording.writing.transfer import receive, send
from ics.recording.writing.unpack import unpacked
from ics.records import Block

Key = tuple[str, int, str]


def probed(model: nn.Module, run: Any, **options: Any) -> Probes:
    """Return probes that were armed while `run()` ran."""
    wanted = {"activations": True, "gradients": True, "normalization": True}
    probes = Probes(model, **{**wanted, **options})
    with probes:
        run()
    return probes


def rows_of(block: Block) -> list[dict[str, Any]]:
    """Return the rows of a block with the columns of its table, tensors as numpy arrays or numbers."""
    (on_host,) = receive(send([block]))
    columns = {
        name: cells.cells() if isinstance(cells, TensorCells) else cells
        for name, cells in unpacked(on_host).columns.items()
    }
    return [dict(zip(columns, map(_host, cells), strict=True)) for cells in zip(*columns.values(), strict=True)]


def by_site(block: Block) -> dict[Key, dict[str, Any]]:
    """Return the rows of `activations` or `gradients` by layer, call and site."""
    name = "of" if "of" in block.columns else "site"
    rows = rows_of(block)
    keyed = {(row["layer"], row["call"], row[name]): row for row in rows}
    assert len(keyed) == len(rows), "layer, call and site are unique"
    return keyed


def activations(probes: Probes) -> dict[Key, dict[str, Any]]:
    """Return the rows of `activations`."""
    return by_site(next(block for block in probes.blocks() if block.table == "activations"))


def gradients(probes: Probes) -> dict[Key, dict[str, Any]]:
    """Return the rows of `gradients`."""
    return by_site(next(block for block in probes.blocks() if block.table == "gradients"))


def normalizations(probes: Probes) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the rows of `normalization` by layer and call."""
    block = next(block for block in probes.blocks() if block.table == "normalization")
    return {(row["layer"], row["call"]): row for row in rows_of(block)}


def expected(tensor: Tensor, *, axis: int) -> dict[str, Any]:
    """Moments by numpy in float64, pooled and per channel along `axis`."""
    values = tensor.detach().double().numpy()
    channels = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    pooled = {name: value[0] for name, value in _moments(channels.reshape(1, -1)).items()}
    return pooled | {f"channel_{name}": value for name, value in _moments(channels).items()}


def assert_row(row: Mapping[str, Any], tensor: Tensor, *, axis: int, exact_zeros: bool = True) -> None:
    """Assert that a row holds the moments of a tensor; without `exact_zeros` signs of rounding errors are left out."""
    scale = float(tensor.detach().abs().max()) or 1.0
    for name, value in expected(tensor, axis=axis).items():
        if name in row and (exact_zeros or not name.endswith("fraction")):
            power = int(name[-1]) if name[-1] in "234" else 1
            np.testing.assert_allclose(row[name], value, rtol=1e-9, atol=1e-11 * scale**power, err_msg=name)
    assert int(row["histogram"].sum()) == tensor.numel()


def _moments(channels: np.ndarray) -> dict[str, np.ndarray]:
    mean = channels.mean(1)
    centred = channels - mean[:, None]
    powers = {f"m{k}": (centred**k).mean(1) for k in (2, 3, 4)}
    return {
        "count": np.full(len(channels), channels.shape[1]),
        "mean": mean,
        **powers,
        "minimum": channels.min(1),
        "maximum": channels.max(1),
        "zero_fraction": (channels == 0).mean(1),
        "negative_fraction": (channels < 0).mean(1),
    }


def _host(cell: Any) -> Any:
    return cell.item() if isinstance(cell, np.ndarray) and not cell.ndim else cell
