"""Loss and gradient along a line from W(t) (Santurkar et al. 2018, sec. 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ics import schema, stats
from ics.errors import UsageError, unknown_name
from ics.landscape.measures.layerwise import NOTHING_TRAINED, trained_names
from ics.landscape.transition import Transition, vector
from ics.records import Block, Layer

_COLUMNS = schema.GRADIENT_LINE.measured_columns

_NUMBERS = ("distance", "loss", "gradient_change_l2", "gradient_norm", "predicted_change", "start")


def default_etas(learning_rate: float | None, *, num_etas: int = 8) -> tuple[float, ...]:
    """Return step sizes from 1/2 to 4 times the learning rate, equally spaced on a log scale.

    The range is Santurkar's for VGG (sec. 3.1). At a learning rate of 0, as in a warm-up, there are none, nor at one
    that is not finite.

    Raises:
        UsageError: no learning rate.

    Example:
        >>> [round(eta, 4) for eta in default_etas(0.1, num_etas=4)]
        [0.05, 0.1, 0.2, 0.4]
    """
    if learning_rate is None:
        raise UsageError(
            "default step sizes expect a learning rate, got none; type etas=[...], or hand the optimizer to the "
            "recorder"
        )
    if learning_rate == 0 or not math.isfinite(learning_rate):
        return ()
    return tuple(learning_rate * 2.0 ** (-1 + 3 * number / (num_etas - 1)) for number in range(num_etas))


def gradient_line(
    transition: Transition,
    *,
    etas: Sequence[float],
    directions: Sequence[str] = ("gradient",),
    num_random: int = 1,
    seed: int = 0,
    layers: Sequence[Layer] = (),
) -> Block:
    """Measure loss and gradient at points w_eta = w + d on lines from w = W(t), on the batch of the update.

    - "gradient": d = -eta g, g = grad L(w); descent, g not normalised
    - "update": d = eta/lr (W(t+1) - W(t)), what the optimizer did, scaled like eta
    - "random": d = eta ||g|| u, u a Gaussian direction of length 1: as long as the gradient step of the same eta

    At each point: the distance ||d||, the loss, the gradient change ||grad L(w_eta) - g||, the predicted change of the
    loss g.d, and the Taylor error |L(w + d) - L(w) - g.d| / |g.d|. d is the displacement that the parameters' precision
    leaves, w_eta - w. Effective beta-smoothness is gradient_change_l2 / distance.

    Args:
        transition: W(t), W(t+1), the loss and its learning rate.
        etas: step sizes; 0, the point itself, is added.
        directions: which lines, of "gradient", "update" and "random".
        num_random: how many random directions.
        seed: of the random directions, which are the same on every device.
        layers: layers to move one at a time besides, everything else held at W(t): then g, d and every quantity but the
            loss are of that layer's parameters alone, so that beta is the smoothness of the loss in that layer.

    Returns:
        Distances in weight, losses and their predicted change in loss, gradients and their change in loss/weight.
        A row per layer moved ("(all)", the whole net, first), direction, draw and eta, with the columns of
        `gradient_line` but for `step`. Frozen parameters stay; a layer of which all are frozen has null rows.
        The Taylor error is null at eta = 0, and where g.d is 0 or below the resolution of the loss: what is computed
        there is rounding.

    Cost: a forward-backward pass per eta other than 0, direction and draw, for the whole net and each of `layers`.

    Source: Santurkar et al. 2018 (arXiv 1805.11604), sec. 3.1 and Fig. 4, for the gradient direction.

    Raises:
        UsageError: an eta that is not finite, or "update" without a learning rate.
        SelectionError: a direction that is not there.

    Example:
        >>> from ics.landscape import Objective, make_transition
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> objective = Objective(model, lambda model, x: model(x).square().sum() / 2, torch.ones(1, 1).double())
        >>> transition = make_transition(objective, before=objective.parameters, after={})
        >>> block = gradient_line(transition, etas=[0.5, 1.0])   # L = w^2/2: beta is 1
        >>> block.columns["loss"], block.columns["gradient_change_l2"], block.columns["distance"]
        ([0.5, 0.125, 0.0], [0.0, 0.5, 1.0], [0.0, 0.5, 1.0])
    """
    etas = checked_etas(etas)
    keys: list[dict[str, Any]] = []
    measured: list[Tensor] = []
    chosen = _checked_directions(directions, transition)
    draws = [(direction, draw) for direction in chosen for draw in range(num_random if direction == "random" else 1)]
    moved = [(schema.WHOLE_NET, tuple(transition.gradients))]
    moved += [(layer.name, trained_names(transition, layer)) for layer in layers]
    for (layer_name, names), (direction, draw) in product(moved, draws):
        line = _line(transition, names, direction, draw, seed)
        for eta in etas:
            keys.append({"layer": layer_name, "direction": direction, "draw": draw, "eta": eta, "moves": bool(names)})
            measured.append(_measure(transition, line, eta))
    numbers = torch.stack(measured).tolist() if measured else []  # the one copy to the host
    cells = [_cells(transition, key, values) for key, values in zip(keys, numbers, strict=True)]
    return Block("gradient_line", {column: [each.get(column) for each in cells] for column in _COLUMNS})


def checked_etas(etas: Sequence[float]) -> list[float]:
    """Return the step sizes in ascending order, with 0; raises `UsageError` for one that is not finite."""
    for eta in etas:
        if not math.isfinite(eta):
            raise UsageError(f"etas are expected to be finite step sizes, got {eta}; type e.g. etas=[0.05, 0.1, 0.2]")
    return sorted({0.0, *(float(eta) for eta in etas)})


def check_directions(directions: Sequence[str]) -> None:
    """Raise `SelectionError` for a direction that is not there."""
    for direction in directions:
        if direction not in schema.DIRECTIONS:
            raise unknown_name("direction", direction, schema.DIRECTIONS)


def _checked_directions(directions: Sequence[str], transition: Transition) -> list[str]:
    check_directions(directions)
    if "update" in directions and transition.learning_rate is None:
        raise UsageError(
            'the direction "update" expects the learning rate of the step, got none; type learning_rate=..., or hand '
            "the optimizer to the recorder"
        )
    return list(dict.fromkeys(directions))


@dataclass(frozen=True)
class _Line:
    """d(eta) = (eta / divisor) * vector; a divisor of 0, or nothing to move, leaves it undefined."""

    vector: Mapping[str, Tensor]
    divisor: float

    def displacement(self, eta: float) -> dict[str, Tensor]:
        return {name: (eta / self.divisor) * value for name, value in self.vector.items()}


def _line(transition: Transition, names: Sequence[str], direction: str, draw: int, seed: int) -> _Line:
    gradient = vector(transition.gradients, names, like=transition.before)
    if direction == "gradient":
        return _Line(dict(zip(names, gradient, strict=True)), -1.0)
    if direction == "update":
        rate = transition.learning_rate
        assert rate is not None, "checked with the directions"
        return _Line({name: transition.after[name] - transition.before[name] for name in names}, rate)
    generator = torch.Generator().manual_seed(seed + draw)
    # Drawn on the CPU and then moved: generators of other devices give other numbers for the same seed.
    random = [torch.randn(value.shape, generator=generator).to(value) for value in gradient]
    scale = stats.norm(gradient) / stats.norm(random)
    return _Line({name: (scale * value).to(value) for name, value in zip(names, random, strict=True)}, 1.0)


def _measure(transition: Transition, line: _Line, eta: float) -> Tensor:
    """Return the `_NUMBERS` of one point, in the order of that tuple."""
    names = list(line.vector)
    gradient = vector(transition.gradients, names, like=transition.before)
    # Without a layer's gradient there is no tensor to tell the device: the loss does.
    size = stats.norm(gradient) if names else stats.norm([transition.loss])
    start, zero = transition.loss.to(size), torch.zeros_like(size)
    if eta == 0:
        return torch.stack([zero, start, zero, size, zero, start])
    if line.divisor == 0 or not names:
        return torch.stack([zero, start, zero, size, zero, start]) * torch.nan
    step = line.displacement(eta)
    # W(t) in float32 swallows digits of the step: the displacement is what is left of it, not what was asked for.
    point = {**transition.before, **{name: transition.before[name] + step[name] for name in names}}
    moved = [point[name] - transition.before[name] for name in names]
    there = transition.objective(point, wanted=None if len(names) == len(transition.gradients) else names)
    change = stats.distance(vector(there.gradients, names, like=transition.before), gradient)
    return torch.stack([stats.norm(moved), there.loss.to(size), change, size, stats.dot(gradient, moved), start])


def _cells(transition: Transition, key: Mapping[str, Any], numbers: Sequence[float]) -> dict[str, Any]:
    """Return the cells of a row; what is undefined is null, and null_reason says why."""
    cells = {**key, "learning_rate": transition.learning_rate}
    if not key["moves"]:
        return cells | {"null_reason": NOTHING_TRAINED}
    if key["direction"] == "update" and key["eta"] != 0 and not transition.learning_rate:
        return cells | {"null_reason": "a learning rate of 0 gives the update no scale"}
    values = dict(zip(_NUMBERS, numbers, strict=True))
    start, there, predicted = values.pop("start"), values["loss"], values["predicted_change"]
    resolution = torch.finfo(transition.loss.dtype).eps * max(abs(start), abs(there))
    if key["eta"] == 0:
        reason = "taylor_error: this is the point itself"
    elif predicted == 0:
        reason = "taylor_error: the predicted change is 0"
    elif abs(predicted) <= resolution < math.inf:
        reason = "taylor_error: the predicted change is below the resolution of the loss"
    else:
        return cells | values | {"taylor_error": abs(there - start - predicted) / abs(predicted)}
    return cells | values | {"null_reason": reason}
