"""Slices through the loss along random directions that are as long, filter by filter, as the weights themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ics import stats
from ics.errors import UsageError
from ics.landscape.objective import Objective

SLICE_COLUMNS = ("alpha", "beta", "distance", "loss")

_EXAMPLE = "type e.g. loss_slice(..., radius=1.0, num_points=21, dimensions=1)"


def loss_slice(
    objective: Objective,
    parameters: Mapping[str, Tensor],
    *,
    radius: float = 1.0,
    num_points: int = 21,
    dimensions: int = 1,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Measure the loss on a line or a plane through `parameters`, along filter-normalised random directions.

    L(w + alpha d), or L(w + alpha d + beta e), for alpha and beta at `num_points` equal distances in [-radius, radius].
    d and e are Gaussian, rescaled as `filter_normalised` says, so that slices of nets whose weights differ in scale
    can be laid side by side. Source: Li et al. 2018 (arXiv 1712.09913), sec. 4.

    Args:
        objective: the loss of one batch; in train mode normalisations use the batch's own statistics.
        parameters: the point w; a value for every parameter. Frozen parameters stay.
        radius: the largest alpha and beta; at 1 a filter is moved by as much as it is long.
        num_points: how many along each direction; an odd number has w itself in the middle.
        dimensions: 1 for a line, 2 for a plane.
        seed: of the directions, which are the same on every device; d is the same on the line and on the plane.

    Returns:
        Frame-ready columns, a row per point, alpha first: `alpha`, `beta` (0 on a line), `distance` = ||w' - w|| in
        weight, and `loss`. A loss that is NaN or infinite stands as it is.

    Cost: a forward pass per point: `num_points`, or its square.

    Raises:
        UsageError: a radius that is not positive, fewer than two points, or other dimensions than 1 and 2.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> objective = Objective(model, lambda model, _: (model.weight ** 2).sum(), None)
        >>> columns = loss_slice(objective, {"weight": torch.tensor([[3.0]])}, num_points=3, seed=1)
        >>> columns["alpha"], [round(loss, 3) for loss in sorted(columns["loss"])]   # (3 +- 3 alpha)^2
        ([-1.0, 0.0, 1.0], [0.0, 9.0, 36.0])
    """
    _check(radius, num_points, dimensions)
    generator = torch.Generator().manual_seed(seed)
    centre = {name: parameters[name] for name in objective.trainable if name in parameters}
    directions = [filter_normalised(centre, generator=generator) for _ in range(dimensions)]
    grid = [radius * (2 * number / (num_points - 1) - 1) for number in range(num_points)]
    places = list(itertools.product(grid, grid if dimensions == 2 else [0.0]))
    measured: list[Tensor] = []
    for place in places:
        point = {name: value + _step(directions, place, name) for name, value in centre.items()}
        distance = stats.distance(list(point.values()), list(centre.values()))
        loss = objective({**parameters, **point}, wanted=()).loss
        measured.append(torch.stack([distance, loss.to(distance)]))
    numbers = torch.stack(measured).tolist()  # the one copy to the host
    rows = [(*place, *values) for place, values in zip(places, numbers, strict=True)]
    return {name: [row[column] for row in rows] for column, name in enumerate(SLICE_COLUMNS)}


def filter_normalised(parameters: Mapping[str, Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a random direction each of whose filters is as long as the filter of the parameters.

    d_f <- d_f / ||d_f|| * ||w_f|| for every filter f, d Gaussian. A filter is what one index of a parameter's first
    axis holds: an output channel of a convolution, the weights of one output of a linear layer, one embedding. Biases
    and other parameters of fewer than two axes, a normalisation's gamma and beta among them, get zeros: scaled
    directions in them are not comparable between nets (Li et al. 2018, sec. 4).

    Args:
        parameters: parameter name to value.
        generator: on the CPU, of the Gaussian numbers; parameters of fewer than two axes draw none.

    Cost: no pass.

    Example:
        >>> parameters = {"weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "bias": torch.ones(2)}
        >>> direction = filter_normalised(parameters, generator=torch.Generator().manual_seed(0))
        >>> direction["weight"].norm(dim=1), direction["bias"]
        (tensor([5., 0.]), tensor([0., 0.]))
    """
    return dict(_filter_normalised(parameters, generator))


def _filter_normalised(parameters: Mapping[str, Tensor], generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    for name, value in parameters.items():
        if value.ndim < 2:
            yield name, torch.zeros_like(value)
            continue
        random = torch.randn(value.shape, generator=generator).to(value)
        axes = tuple(range(1, value.ndim))
        # A filter of zeros has length 0 and stays where it is.
        lengths, wanted = (torch.linalg.vector_norm(each, dim=axes, keepdim=True) for each in (random, value))
        yield name, random * (wanted / lengths)


def _step(directions: Sequence[Mapping[str, Tensor]], place: Sequence[float], name: str) -> Tensor:
    steps = [coordinate * direction[name] for coordinate, direction in zip(place, directions, strict=False)]
    return steps[0] if len(steps) == 1 else steps[0] + steps[1]


def _check(radius: float, num_points: int, dimensions: int) -> None:
    if not (math.isfinite(radius) and radius > 0):
        raise UsageError(f"a slice expects a finite radius above 0, got {radius}; {_EXAMPLE}")
    if num_points < 2:
        raise UsageError(f"a slice expects at least 2 points along each direction, got {num_points}; {_EXAMPLE}")
    if dimensions not in (1, 2):
        raise UsageError(f"a slice has 1 or 2 dimensions, got {dimensions}; {_EXAMPLE}")
