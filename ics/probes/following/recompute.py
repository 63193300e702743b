"""Activation checkpointing: which calls of the forward pass a recomputation inside the backward pass repeats."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import torch

from ics.probes.following.tracker import Site

Pending = dict[tuple[str, str], list[int]]


def in_backward() -> bool:
    """Return whether the autograd engine is running a backward pass around the caller."""
    return torch._C._current_graph_task_id() != -1


def recomputing_node() -> Hashable | None:
    """Return what identifies the checkpointed segment that is recomputed; None where no gradient can be had from it.

    Reentrant checkpointing, a Python autograd function, runs the forward pass without a graph and, in its backward,
    once more with one: only there do its tensors have gradients. The other kind makes the graph in the forward pass
    and recomputes only what the graph had saved: what runs then is of no interest.
    """
    node = torch._C._current_autograd_node()
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        return None
    return torch._C._current_graph_task_id(), id(node)


class Recomputation:
    """One segment that is run again, its calls counted from 0.

    The backward pass recomputes the last segment first. So a site that occurs k times in a segment stands for the
    last k of those calls of the forward pass that are still without a gradient. Calls made without a graph here as
    well belong to a checkpoint within the checkpoint and stay pending.

    Args:
        node: what identifies the segment.
        pending: (layer, site) to the calls that the forward pass made without a graph; shortened as they are found.
    """

    def __init__(self, node: Hashable, pending: Pending) -> None:
        self.node = node
        self._pending = pending
        self._seen: dict[tuple[str, str], list[tuple[int, bool]]] = {}
        self._calls: dict[tuple[str, int, str], int] | None = None

    def observe(self, site: Site, *, graded: bool) -> None:
        """Note that a site occurred, and whether it has a gradient."""
        self._seen.setdefault((site.layer, site.site), []).append((site.call, graded))

    def resolve(self) -> None:
        """Find the calls; to be done once the segment has run, before its gradients or another segment come."""
        if self._calls is not None:
            return
        self._calls = {}
        for (layer, name), seen in self._seen.items():
            pending = self._pending.get((layer, name), [])
            calls = pending[-len(seen) :]
            # More calls than the forward pass made without a graph: the segment is not the one it seems to be.
            if len(calls) < len(seen):
                continue
            self._calls.update({(layer, local, name): call for (local, _), call in zip(seen, calls, strict=True)})
            # Calls that have no gradient even now wait for the checkpoint inside this one.
            still = [call for (_, graded), call in zip(seen, calls, strict=True) if not graded]
            self._pending[layer, name] = pending[: -len(seen)] + still

    def in_forward(self, site: Site) -> Site | None:
        """Return the site of the forward pass that a site of this segment repeats; None if there is none."""
        self.resolve()
        call = (self._calls or {}).get(site.key)
        return None if call is None else dataclasses.replace(site, call=call)
