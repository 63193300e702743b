"""Products of the Hessian with vectors, from one gradient graph that is kept as long as it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

import torch
from torch import Tensor

from ics.landscape.objective import Objective, gradients_of


class HessianAt:
    """The Hessian of an objective at one point, as a map from vectors to vectors.

    The gradient is computed once with its graph; each product is then one backward pass through it. Used as a
    context manager, so that the graph is freed at its end.

    Args:
        objective: the loss of one batch.
        parameters: the point; a value for every parameter.
        wanted: names of the parameters that span the space; default all that are trained.

    Cost: one forward-backward pass with a graph kept, about twice the memory of a training step; one backward pass
    through that graph, about two plain ones, per product.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(2, 1, bias=False)
        >>> objective = Objective(model, lambda model, x: (model(x) ** 2).sum() / 2, torch.eye(2))
        >>> with HessianAt(objective, objective.parameters) as hessian:
        ...     hessian.product({"weight": torch.tensor([[1.0, 2.0]])})
        {'weight': tensor([[1., 2.]])}
    """

    def __init__(
        self, objective: Objective, parameters: Mapping[str, Tensor], *, wanted: Sequence[str] | None = None
    ) -> None:
        self.names = objective.trainable if wanted is None else tuple(wanted)
        self._leaves = objective.leaves(parameters, self.names)
        self._graphs: list[dict[str, Tensor]] = []
        with objective.standing_at(self._leaves):
            for batch in objective.batches:
                # One graph per micro-batch; their products are summed.
                self._graphs.append(self._gradient_graph(objective.loss(batch)))

    @property
    def gradient(self) -> dict[str, Tensor]:
        """The gradient at the point, detached; zeros where the loss does not depend on a parameter."""
        total = {name: torch.zeros_like(self._leaves[name]).detach() for name in self.names}
        for graph in self._graphs:
            for name, part in graph.items():
                total[name] = total[name] + part.detach()
        return total

    def product(self, vector: Mapping[str, Tensor], *, of: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return H v, or its part for the parameters `of`.

        Args:
            vector: a tensor for each parameter with a part in v; left out parameters count as zero.
            of: names of the parameters whose part of the product is wanted; default all.
        """
        return self.slope_gradient(self.slopes(vector), of=of)

    def slopes(self, vector: Mapping[str, Tensor]) -> list[list[Tensor]]:
        """Return the terms of g.v, one per parameter in `vector`, for each micro-batch; they carry their graph.

        Cost: one product of the entries and their sum. Terms of several vectors may be put together before
        `slope_gradient`, which then gives the product with the sum of the vectors.
        """
        terms = [[(graph[name] * vector[name]).sum() for name in graph if name in vector] for graph in self._graphs]
        return [[term for term in each if term.requires_grad] for each in terms]  # a linear loss has no second graph

    def slope_gradient(
        self, slopes: Sequence[Sequence[Tensor]], *, of: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Return the gradient of what `slopes` returned with respect to the parameters `of`: their part of H v."""
        rows = self.names if of is None else tuple(of)
        total = {name: torch.zeros_like(self._leaves[name]).detach() for name in rows}
        for terms in slopes:
            leaves = [self._leaves[name] for name in rows]
            if not (terms and leaves):  # nothing moved, or a frozen layer: autograd refuses to be asked for nothing
                continue
            parts = torch.autograd.grad(torch.stack(list(terms)).sum(), leaves, retain_graph=True, allow_unused=True)
            for name, part in zip(rows, parts, strict=True):
                if part is not None:
                    total[name] = total[name] + part
        return total

    def __enter__(self) -> HessianAt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._graphs.clear()

    def _gradient_graph(self, loss: Tensor) -> dict[str, Tensor]:
        if not loss.requires_grad:
            return {}
        leaves = [self._leaves[name] for name in self.names]
        found = gradients_of(loss, leaves, create_graph=True)
        return {name: part for name, part in zip(self.names, found, strict=True) if part is not None}
