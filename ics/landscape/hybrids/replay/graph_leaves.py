"""The tensors that a backward pass would end at."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import Tensor


def graph_leaves(loss: Tensor) -> Iterator[Tensor]:
    """Yield every leaf of a loss's graph that would be given a gradient.

    Cost: a microsecond for every operation of the pass.

    Example:
        >>> import torch
        >>> a, b = (torch.ones(1, requires_grad=True) for _ in "ab")
        >>> [leaf is a for leaf in graph_leaves((a * 2 + b.detach()).sum())]
        [True]
    """
    waiting = [] if loss.grad_fn is None else [loss.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):  # the end of the graph, which accumulates into a tensor's gradient
            yield node.variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)


def foreign_leaves(loss: Tensor, own: Collection[Tensor], *, known: Sequence[Tensor] = ()) -> list[Tensor]:
    """Return the leaves of a loss's graph that are neither in `own` nor in `known`."""
    ours = {id(leaf) for leaf in (*own, *known)}
    return [leaf for leaf in graph_leaves(loss) if id(leaf) not in ours]
