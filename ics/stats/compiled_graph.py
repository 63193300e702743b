"""The moments as one graph of torch.compile: Triton kernels on a GPU, where launches are what separate operations cost.

The mathematics is that of `channel_moments`, traced. The histogram stays outside: it reads a sample only. Inductor
keeps what it compiled on disk, for other processes too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ics.stats.histogram import histogram
from ics.stats.layout import Affine, as_slabs, transformed
from ics.stats.moments import whole_tensor
from ics.stats.packed import pack

_MOST = 2**24  # values of a channel; float32 counts ones no further
_VARIANTS = 64  # types, asymptotes or none, and axes of length 1, each of which is a graph of its own


def backend(announce: Callable[[str], None]) -> Callable[..., tuple[Tensor, Tensor | None] | None]:
    """Return the backend; it returns None for tensors that it does not take, and for all once compiling failed.

    Args:
        announce: told, in a sentence, that a graph is about to be compiled, or that this failed.
    """
    graph = torch.compile(_graph, dynamic=True, fullgraph=True)
    compiled: set[tuple[Any, ...]] = set()
    failed = False

    def reduce_fused(
        x: Tensor, axis: int, saturation: tuple[float, float] | None, affine: Affine | None, limit: int | None
    ) -> tuple[Tensor, Tensor | None] | None:
        nonlocal failed
        with torch.no_grad():
            slabs = as_slabs(x, channel_axis=axis)
            outer, channels, inner = slabs.shape
            if failed or x.dtype == torch.float64 or not 0 < outer * inner <= _MOST or channels == 0:
                return None
            values = x.detach() if affine is None else transformed(x, axis, affine)
            slabs = slabs if affine is None else as_slabs(values, channel_axis=axis)
            bounds = None if saturation is None else torch.tensor(saturation, dtype=torch.float64, device=x.device)
            variant = (slabs.dtype, bounds is None, *(size == 1 for size in slabs.shape), slabs.is_contiguous())
            if variant not in compiled:
                announce(
                    f"compiling the graph of the statistics on {x.device.type}, once per type and layout; a minute"
                )
                compiled.add(variant)
            try:
                moments = _run(graph, slabs, bounds)
            except Exception as error:  # a compiler may fail in any way; measuring goes on
                failed = True
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                announce(f"compiling failed ({reason}); statistics on {x.device.type} are taken by separate operations")
                return None
            return moments, None if limit == 0 else histogram(values, max_values=limit)

    return reduce_fused


def _run(graph: Callable[..., Tensor], slabs: Tensor, bounds: Tensor | None) -> Tensor:
    # A recorded step runs under the stance "force_eager", so that hooks fire; this graph has none.
    with torch.compiler.set_stance("default"), torch._dynamo.config.patch(recompile_limit=_VARIANTS):
        return graph(slabs, bounds)


def _graph(slabs: Tensor, bounds: Tensor | None) -> Tensor:
    return pack(whole_tensor(slabs, None if bounds is None else (bounds[0], bounds[1])))
