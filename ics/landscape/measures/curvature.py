"""How sharp the loss is: the Hessian's largest eigenvalues and its value along the gradient, beside 2/lr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from ics import stats
from ics.landscape.measures.hessian import HessianAt
from ics.landscape.transition import Transition
from ics.records import Block

_DENSE = 12  # up to so many parameters the whole matrix is cheaper than an iteration, and exact


def curvature(
    transition: Transition, *, num_eigenvalues: int = 1, tolerance: float = 1e-3, max_products: int = 200, seed: int = 0
) -> Block:
    """Measure the largest eigenvalues of the Hessian on the batch at W(t), and the batch sharpness.

    lambda_i = the largest solutions of H v = lambda v,   batch sharpness = g.Hg / ||g||^2
    H = d^2 L / dW dW and g = dL / dW on the batch of the update, over all trained parameters together

    by Lanczos iteration (ARPACK) on products H v; H itself is built only for a handful of parameters. With full-batch
    gradient descent the largest eigenvalue rises to 2/lr and stays there (edge of stability, Cohen et al. 2021); on
    minibatches it is the batch sharpness that does (Andreyev & Beneventano 2024, arXiv 2412.20553).

    Args:
        transition: the step that is measured; only W(t) and the learning rate are used.
        num_eigenvalues: how many of the largest eigenvalues.
        tolerance: relative accuracy of the eigenvalues (scipy's `eigsh`).
        max_products: Hessian-vector products after which what has converged is returned and the rest is null.
        seed: of the first Lanczos vector.

    Returns:
        One row of the table `curvature` without `step`. Eigenvalues and sharpness in loss/weight^2, 2/lr beside them.
        Where no eigenvalue converged, or the gradient is zero or not finite, they are null.

    Cost: one forward-backward pass and one backward pass of the gradient's graph per product, typically 20 to 60.

    Raises:
        RuntimeError: torch's, for a loss that is not twice differentiable.

    Example:
        >>> from ics.landscape import Objective, make_transition
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.diag(torch.tensor([1.0, 3.0]))
        >>> objective = Objective(model, lambda model, x: (model(x) ** 2).sum() / 2, x)
        >>> transition = make_transition(objective, before=objective.parameters, after=objective.parameters)
        >>> round(float(curvature(transition).columns["hessian_max_eigenvalue"][0]), 4)
        9.0
    """
    with HessianAt(transition.objective, transition.before) as hessian:
        sharpness, reason = _batch_sharpness(hessian)
        operator = _Counted(hessian)
        if not _finite(hessian.gradient):
            eigenvalues, reason = np.array([]), "the gradient is not finite"
        else:
            eigenvalues = _largest(operator, num_eigenvalues, tolerance, max_products, seed)
    if not reason and not len(eigenvalues):
        reason = f"no eigenvalue converged within {max_products} products"
    rate = transition.learning_rate
    row: dict[str, Any] = {
        "hessian_max_eigenvalue": float(eigenvalues[0]) if len(eigenvalues) else None,
        "hessian_eigenvalues": list(map(float, eigenvalues)) if len(eigenvalues) else None,
        "batch_sharpness": sharpness,
        "learning_rate": rate,
        "two_over_lr": 2 / rate if rate else None,
        "num_products": operator.num_products + 1,
        "null_reason": reason,
    }
    return Block("curvature", {name: [value] for name, value in row.items()})


class _Counted:
    """The Hessian as scipy wants it: flat float64 vectors on the host, and a count of the products."""

    def __init__(self, hessian: HessianAt) -> None:
        self._hessian = hessian
        self._like = hessian.gradient
        self.size = sum(tensor.numel() for tensor in self._like.values())
        self.num_products = 0

    def __call__(self, flat: np.ndarray) -> np.ndarray:
        self.num_products += 1
        pieces = torch.split(torch.from_numpy(flat.ravel()), [tensor.numel() for tensor in self._like.values()])
        vector = {
            name: piece.reshape(tensor.shape).to(tensor)
            for piece, (name, tensor) in zip(pieces, self._like.items(), strict=True)
        }
        product = self._hessian.product(vector)
        return torch.cat([part.reshape(-1).double().cpu() for part in product.values()]).numpy()


def _largest(operator: _Counted, count: int, tolerance: float, max_products: int, seed: int) -> np.ndarray:
    """Return the `count` largest eigenvalues, descending; fewer where not all converged."""
    size = operator.size
    if size <= max(_DENSE, count + 1):
        # The products are symmetric only up to rounding, and `eigvalsh` reads one triangle.
        matrix = np.stack([operator(column) for column in np.eye(size)])
        return np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1][:count]
    basis = min(size, max(2 * count + 1, 20))
    start = np.random.default_rng(seed).standard_normal(size)
    matrix = LinearOperator((size, size), matvec=operator, dtype=np.float64)
    rounds = max(1, (max_products - basis) // max(basis - count, 1))
    try:
        found = eigsh(
            matrix, k=count, which="LA", v0=start, ncv=basis, tol=tolerance, maxiter=rounds, return_eigenvectors=False
        )
    except ArpackNoConvergence as error:
        found = error.eigenvalues
    return np.sort(found)[::-1]


def _batch_sharpness(hessian: HessianAt) -> tuple[Tensor | None, str | None]:
    gradient = hessian.gradient
    values = list(gradient.values())
    product = list(hessian.product(gradient).values())
    squares = stats.dot(values, values)
    if not float(squares):
        return None, "the gradient is zero"
    return stats.dot(values, product) / squares, None


def _finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
