"""C21: is the loss, and its gradient, smoother along the gradient with BatchNorm, and by which measure?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ics.analysis import MAXIMA, band_measures, landscape_bands
from ics.claims.measures.equal_loss import (
    early_pairs,
    final_losses,
    ratios_at_equal_loss,
    shared_names,
    with_and_without_norm,
)
from ics.claims.method.budgets import net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import below

_COLUMNS = ("step", "layer", "direction", "eta", "distance", "loss", "gradient_change_l2", "learning_rate")
_AT_ETA = {
    "loss_range": ("largest - smallest loss along the gradient, at equal step sizes", "1"),
    "gradient_change": ("largest ||grad L(w_eta) - g|| along the gradient, at equal step sizes", "1"),
    "beta": ("largest ||grad L(w_eta) - g|| / distance along the gradient, at equal step sizes", "1"),
}
_AT_DISTANCE = {
    "loss_change_at_distance": "|L(w_d) - L(w)| along the gradient, at the distance d that both nets were probed to",
    "beta_at_distance": "||grad L(w_d) - g|| / d along the gradient, at the distance d that both nets were probed to",
}


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Ratios BatchNorm / standard at equal steps and at equal loss, and for each net beta as a multiple of 2/lr."""
    line = found.table("gradient_line", columns=_COLUMNS, where={"direction": "gradient"})
    effects: list[Effect] = []
    for name in found.budget.bases:
        plain, normed = net_name("none", name), net_name("batch", name)
        rows = line[line["net"].isin([plain, normed])]
        bands = at_equal_eta(rows)
        for measure, (meaning, unit) in _AT_ETA.items():
            numbers = per_seed(bands, measure)
            effects.append(ratio(numbers, normed, plain, measure=measure, meaning=meaning, unit=unit, setting=name))
        reached = at_equal_distance(rows, plain, normed)
        for measure, meaning in _AT_DISTANCE.items():
            effects.append(
                ratio(per_seed(reached, measure), normed, plain, measure=measure, meaning=meaning, setting=name)
            )
        edge = per_seed(bands, "beta_over_edge")
        effects += [
            value(edge, net, measure="beta_over_edge", meaning="beta as a multiple of 2/lr", unit="2/lr", setting=net)
            for net in (plain, normed)
        ]
    return (*effects, *_at_equal_loss(found, line), *final_losses(found, shared_names(found.budget)))


def _at_equal_loss(found: Evidence, line: pd.DataFrame) -> list[Effect]:
    """The same at equal step sizes, each net at the steps where its loss is that of the other."""
    columns = {
        measure: (f"{measure}_at_equal_loss", f"{meaning}, median over losses that both nets have", unit)
        for measure, (meaning, unit) in _AT_ETA.items()
    }
    effects = []
    for name, nets in early_pairs(found.budget):
        rows = line[line["net"].isin(nets)]
        if rows["net"].nunique() == len(nets):
            effects += ratios_at_equal_loss(found, at_equal_eta(rows), columns, nets=nets, setting=name)
    return effects


def at_equal_eta(rows: pd.DataFrame) -> pd.DataFrame:
    """Return loss_range, gradient_change, beta and beta_over_edge of each run and step.

    A maximum over a line on which the loss overflowed is unknown, but larger than any number: inf.
    """
    return band_measures(landscape_bands(rows).fillna(dict.fromkeys(MAXIMA, np.inf)))


def at_equal_distance(rows: pd.DataFrame, plain: str, normed: str) -> pd.DataFrame:
    """Return loss_change_at_distance and beta_at_distance of both nets, where both were probed, by seed and step.

    d is the smaller of the largest distances that the two nets of a seed were probed to at this step; values between
    two probes are interpolated along the line, from 0 at distance 0.
    """
    results = []
    for (seed, step), both in rows.groupby(["seed", "step"]):
        lines = {net: both[both["net"] == net].sort_values("distance") for net in (plain, normed)}
        if any(line.empty for line in lines.values()):
            continue
        reach = min(float(line["distance"].max()) for line in lines.values())
        for net, line in lines.items():
            change, gradient = _at(line, reach)
            results.append((net, seed, step, change, gradient / reach if reach > 0 else np.nan))
    return pd.DataFrame(results, columns=["net", "seed", "step", *_AT_DISTANCE])


def _at(line: pd.DataFrame, distance: float) -> tuple[float, float]:
    """The change of the loss and of the gradient at a distance; inf beyond a loss that overflowed."""
    start = line["loss"].to_numpy(float)[0]
    changes = np.abs(line["loss"].to_numpy(float) - start)
    gradients = line["gradient_change_l2"].to_numpy(float)
    places = line["distance"].to_numpy(float)
    return _interpolated(distance, places, changes), _interpolated(distance, places, gradients)


def _interpolated(place: float, places: np.ndarray, values: np.ndarray) -> float:
    finite = np.isfinite(values)
    if not finite.any() or place > places[finite].max():
        return float("inf")
    return float(np.interp(place, places[finite], values[finite]))


_WHY = "a tenth less is the smallest improvement that counts"

C21 = Claim(
    id="C21",
    nets=with_and_without_norm,
    evidence=evidence,
    rule=tuple(
        below(measure, 0.9, why=_WHY)
        for measure in (*_AT_ETA, *_AT_DISTANCE, *(f"{measure}_at_equal_loss" for measure in _AT_ETA))
    ),
    published="VGG on CIFAR-10, SGD lr 0.1: loss range, gradient predictiveness and effective beta are smaller with "
    "BatchNorm throughout training (Santurkar et al. 2018, Fig. 4).",
    remark="At equal step sizes a net with small gradients moves less far, which alone makes its range smaller; at "
    "equal distance it does not. At equal steps a net that learns is compared with one that may still rest on a "
    "plateau, which is smooth (final_loss); hence the third comparison, at equal loss, added after that was seen. "
    "Where training is at the edge of stability beta is 2/lr for every net.",
)
