"""C20: is the loss more nearly planar around the parameters with BatchNorm, and in a ball of which size?"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import product

import numpy as np
import pandas as pd

from ics.claims.measures.equal_loss import (
    early_pairs,
    final_losses,
    ratios_at_equal_loss,
    shared_names,
    with_and_without_norm,
)
from ics.claims.measures.taylor_error import TAYLOR_COLUMNS, departure_at, departures
from ics.claims.measures.training import worst_where_diverged
from ics.claims.method.budgets import net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio
from ics.claims.method.evidence import Evidence, MissingEvidenceError
from ics.claims.method.rules import below

_DIRECTIONS = {"gradient": "along the gradient", "random": "random directions"}
_WORST = "worst direction"
_RADII = {
    "distance": "the distance that both nets were probed to",
    "relative_distance": "the distance relative to ||w|| that both nets were probed to",
}
_MEASURES = {
    "departure_at_distance": ("|L(w+d) - L(w) - g.d|", "distance"),
    "departure_over_slope_at_distance": ("|L(w+d) - L(w) - g.d| / (||g|| ||d||)", "distance"),
    "departure_over_slope_at_relative_distance": ("|L(w+d) - L(w) - g.d| / (||g|| ||d||)", "relative_distance"),
}
_BENDS = {
    "departure_at_distance": "|L(w+d) - L(w) - g.d| / ||d||^2",
    "departure_over_slope_at_distance": "|L(w+d) - L(w) - g.d| / (||g|| ||d||^2)",
}
_KEYS = ["net", "seed", "step"]


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Ratios BatchNorm / standard of the departure from the tangent plane, by direction, size of ball and measure."""
    line = found.table("gradient_line", columns=TAYLOR_COLUMNS, where={"direction": list(_DIRECTIONS)})
    sizes = weight_norms(found.table("gradients", columns=("step", "parameter_norm"), where={"kind": "parameter"}))
    probes = departures(line).merge(sizes, on=_KEYS)
    probes = probes.assign(relative_distance=probes["distance"] / probes["weight_norm"])
    worst = _worst(found, sizes, probes.groupby(_KEYS)["gradient_norm"].first().reset_index())
    effects: list[Effect] = []
    for name in found.budget.bases:
        plain, normed = net_name("none", name), net_name("batch", name)
        by_direction = {
            words: at_equal_radii(probes, direction, plain, normed) for direction, words in _DIRECTIONS.items()
        }
        by_direction[_WORST] = worst[worst["net"].isin([plain, normed])]
        effects += [
            ratio(
                worst_where_diverged(per_seed(rows, measure), found),
                normed,
                plain,
                measure=measure,
                meaning=f"{meaning} at {_RADII[radius]}, median over steps",
                setting=f"{name}, {words}",
            )
            for words, rows in by_direction.items()
            if not rows.empty
            for measure, (meaning, radius) in _MEASURES.items()
        ]
    return (*effects, *_at_equal_loss(found, probes, worst), *final_losses(found, shared_names(found.budget)))


def _at_equal_loss(found: Evidence, probes: pd.DataFrame, worst: pd.DataFrame) -> list[Effect]:
    by_direction = {words: bends(probes[probes["direction"] == direction]) for direction, words in _DIRECTIONS.items()}
    by_direction[_WORST] = worst
    columns = {
        column: (
            column.replace("at_distance", "at_equal_loss"),
            f"{meaning} at the furthest probe, median over losses that both nets have",
            "1",
        )
        for column, meaning in _BENDS.items()
    }
    effects = []
    for (name, nets), (words, rows) in product(early_pairs(found.budget), by_direction.items()):
        if rows["net"].isin(nets).any():
            effects += ratios_at_equal_loss(found, rows, columns, nets=nets, setting=f"{name}, {words}")
    return effects


def bends(probes: pd.DataFrame) -> pd.DataFrame:
    """Return the departure at the furthest probe of each line, as that of a quadratic at distance 1; see `_BENDS`.

    `departure_at_distance` = departure / distance^2, half the mean curvature on the way, and the same divided by ||g||:
    what does not depend on how far the line was followed where the loss is quadratic. Nets at equal loss stand at
    different steps and were probed to different distances.
    """
    probed = probes[probes["distance"].notna()]
    furthest = probed.loc[probed.groupby([*_KEYS, "draw"])["distance"].idxmax()]
    half = furthest["departure"] / furthest["distance"].where(furthest["distance"] > 0) ** 2
    slope = half / furthest["gradient_norm"].where(furthest["gradient_norm"] > 0)
    return furthest[_KEYS].assign(departure_at_distance=half, departure_over_slope_at_distance=slope)


def _worst(found: Evidence, sizes: pd.DataFrame, slopes: pd.DataFrame) -> pd.DataFrame:
    """Return `worst_direction`; no rows at budgets whose nets do not record the curvature."""
    try:
        curvature = found.table("curvature", columns=("step", "hessian_max_eigenvalue"))
    except MissingEvidenceError:
        return pd.DataFrame(columns=[*_KEYS, *_MEASURES])
    return worst_direction(curvature.merge(sizes, on=_KEYS).merge(slopes, on=_KEYS))


def weight_norms(gradients: pd.DataFrame) -> pd.DataFrame:
    """Return `weight_norm` = ||w|| over all parameters, by net, seed and step."""
    squares = gradients.assign(square=gradients["parameter_norm"] ** 2).groupby(_KEYS)["square"].sum()
    return np.sqrt(squares).rename("weight_norm").reset_index()


def at_equal_radii(probes: pd.DataFrame, direction: str, plain: str, normed: str) -> pd.DataFrame:
    """Return the `_MEASURES` of both nets in balls of equal size, by net, seed, step and draw.

    Ball sizes are, for each seed, step and draw, the smaller of the largest distances (or relative distances) to which
    the two nets were probed. Where one of the nets has no line there is no row.
    """
    rows = probes[(probes["direction"] == direction) & probes["net"].isin([plain, normed])]
    return pd.DataFrame(list(_pairs(rows)), columns=[*_KEYS, *_MEASURES])


def _pairs(rows: pd.DataFrame) -> Iterator[tuple[Hashable, ...]]:
    for (seed, step, _), both in rows.groupby(["seed", "step", "draw"]):
        lines = dict(list(both.groupby("net")))
        if len(lines) < 2:
            continue
        # Each net is probed in multiples of its own gradient: where one ends, the other cannot be compared with it.
        radius, relative = (min(float(line[name].max()) for line in lines.values()) for name in _RADII)
        for net, line in lines.items():
            slope, size = float(line["gradient_norm"].iloc[0]), float(line["weight_norm"].iloc[0])
            far = relative * size
            departure = departure_at(line, radius)
            yield (
                net,
                seed,
                step,
                departure,
                _over(departure, slope * radius),
                _over(departure_at(line, far), slope * far),
            )


def worst_direction(curvature: pd.DataFrame) -> pd.DataFrame:
    """Return the `_MEASURES` for the direction in which the loss bends up most, to second order, up to a constant.

    With lambda the Hessian's largest eigenvalue the departure at distance r is lambda r^2 / 2, over the slope
    lambda r / (2 ||g||). Two nets are compared at equal r, or at equal r / ||w||, so that r = 1, or r = ||w||, will do.
    """
    half = curvature["hessian_max_eigenvalue"].clip(lower=0) / 2
    slope = half / curvature["gradient_norm"].where(curvature["gradient_norm"] > 0)
    return curvature[_KEYS].assign(
        departure_at_distance=half,
        departure_over_slope_at_distance=slope,
        departure_over_slope_at_relative_distance=slope * curvature["weight_norm"],
    )


def _over(departure: float, change: float) -> float:
    return departure / change if change > 0 else float("nan")


_WHY = "a tenth less is the smallest improvement that counts"

C20 = Claim(
    id="C20",
    nets=with_and_without_norm,
    evidence=evidence,
    rule=tuple(
        below(measure, 0.9, why=_WHY)
        for measure in (*_MEASURES, "departure_at_equal_loss", "departure_over_slope_at_equal_loss")
    ),
    published="The loss changes at a smaller rate and gradients are of smaller magnitude with BatchNorm, seen along "
    "the gradient at equal step sizes (Santurkar et al. 2018, sec. 3.1 and Fig. 4); no measurement in a ball is known "
    "to us.",
    remark="At equal steps a net that learns is compared with one that may still rest on a plateau, which is flat "
    "(final_loss); hence the second comparison, at equal loss, added after that was seen. A ball is seen in three "
    "ways: along the gradient (the way of plain SGD), in a random direction, and in the direction that bends most, for "
    "which the largest eigenvalue of the Hessian stands, without higher orders. The radius is what both nets were "
    "probed to, at most 4 learning rates times ||g||. The loss departs from its tangent plane by an amount in units of "
    "the loss; over the slope it is compared with the most that the plane itself changes in the ball. Weights before "
    "BatchNorm can be scaled freely, hence also balls relative to ||w||. VGG-16 at the published setting is recorded "
    "along the gradient only.",
)
