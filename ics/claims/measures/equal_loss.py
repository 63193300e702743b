"""Two nets compared where they have the same loss, shared by C18, C20 and C21.

One net may still be on a plateau while the other learns. At equal steps they are then compared in different regions of
their landscapes. At equal loss both have come equally far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ics.claims.measures.training import final_loss, worst_where_diverged
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.experiments.training.config import RunConfig

_NUM_MEASUREMENTS, _NUM_LOSSES = 25, 20
_INSTRUMENTS = ("gradient_shift", "gradient_line", "gradients", "curvature")
_NORMS = ("none", "batch")
_FROM_THE_START = "measured from the start"
_FINAL = "mean training loss over the last tenth of the steps; of ten classes log 10 = 2.30 is nothing learnt"
LEAST_RANGE = 1.25
"""Losses that both nets have must span at least this factor: closer together than this, batches differ."""


def with_and_without_norm(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """The standard and the BatchNorm net of each base of the budget, and such nets measured from the start."""
    shared = (base(budget, name, norm=norm) for name in budget.bases for norm in _NORMS)
    return (*shared, *early_nets(budget))


def shared_names(budget: ClaimBudget) -> list[str]:
    """Return the names of the standard and the BatchNorm net of each base."""
    return [net_name(norm, name) for name in budget.bases for norm in _NORMS]


def early_nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """The nets with and without BatchNorm, measured most often early, when the loss of BatchNorm falls fastest.

    Those on images are trained three times as long as usual, because the standard net would otherwise hardly get
    anywhere. At `paper` the nets of the claims are recorded this way anyway.
    """
    return tuple(
        base(
            budget,
            name,
            norm=norm,
            net=_early_name(norm, name),
            instruments=dict.fromkeys(_INSTRUMENTS, f"log_spaced({_NUM_MEASUREMENTS})"),
            options={"gradient_line": {"directions": ["gradient", "random"]}},
            evaluate_every=0,
            **({"steps": 3 * budget.image_steps} if name == "images" else {}),
        )
        for name in budget.bases
        if not _is_recorded_early(budget)
        for norm in _NORMS
    )


def early_pairs(budget: ClaimBudget) -> list[tuple[str, tuple[str, str]]]:
    """Return settings, each with the names of the standard and the BatchNorm net that are compared at equal loss."""
    name_of = net_name if _is_recorded_early(budget) else _early_name
    return [(name, (name_of("none", name), name_of("batch", name))) for name in budget.bases]


def _is_recorded_early(budget: ClaimBudget) -> bool:
    return budget.name == "paper"


def _early_name(norm: str, base: str) -> str:
    return f"{net_name(norm, base)}, {_FROM_THE_START}"


def final_losses(found: Evidence, nets: Sequence[str]) -> tuple[Effect, ...]:
    """Return how far each net has come: shown beside the verdict, without a vote."""
    final = final_loss(found)
    return tuple(value(final, net, measure="final_loss", meaning=_FINAL, setting=net) for net in nets)


def ratios_at_equal_loss(
    found: Evidence,
    rows: pd.DataFrame,
    columns: Mapping[str, tuple[str, str, str]],
    *,
    nets: tuple[str, str],
    setting: str,
) -> list[Effect]:
    """Return for each column the ratio of the second net to the first, a median over losses that both have.

    Args:
        found: for the losses.
        rows: `net`, `seed`, `step` and the columns.
        columns: column to the measure's name, its meaning and its unit.
        nets: the standard and the BatchNorm net.
        setting: of the effects.
    """
    plain, normed = nets
    curves = at_equal_loss(found, rows, list(columns), nets=nets)
    return [
        ratio(
            worst_where_diverged(per_seed(curves, column), found),
            normed,
            plain,
            measure=measure,
            meaning=meaning,
            unit=unit,
            setting=setting,
        )
        for column, (measure, meaning, unit) in columns.items()
    ]


def at_equal_loss(
    found: Evidence, rows: pd.DataFrame, columns: Sequence[str], *, nets: tuple[str, str]
) -> pd.DataFrame:
    """Return columns of two nets as functions of the training loss, at losses that both have, seed by seed.

    The rows of a step are reduced to their median. The logarithm of a column is then interpolated between measured
    steps, over the logarithm of the loss of the step's batch, at 20 losses equally spaced on that axis: from the larger
    of the two nets' smallest losses to the smaller of their largest. Steps whose value or loss is not positive and
    finite are left out.

    Returns:
        A row per net, seed and loss: `net`, `seed`, `step` (number of the loss, from 0), `loss` and the columns; null
        where the losses that both have span less than `LEAST_RANGE`.
    """
    steps = found.table("steps", columns=("step", "loss"), where={"net": list(nets)})
    own = rows[rows["net"].isin(nets)].groupby(["net", "seed", "step"])[list(columns)].median().reset_index()
    curves = own.merge(steps[["net", "seed", "step", "loss"]], on=["net", "seed", "step"])
    return pd.concat([_of_seed(curves[curves["seed"] == seed], columns, nets) for seed in curves["seed"].unique()])


def _of_seed(curves: pd.DataFrame, columns: Sequence[str], nets: tuple[str, str]) -> pd.DataFrame:
    seed = curves["seed"].iloc[0]
    frames = {net: pd.DataFrame({"net": net, "seed": seed, "step": range(_NUM_LOSSES)}) for net in nets}
    for column in columns:
        # Interpolated on logarithms: losses fall geometrically, and the measures are compared by their ratio.
        # A step that diverged has no logarithm; whether the whole run did is the business of `worst_where_diverged`.
        positive = curves[_is_positive(curves["loss"]) & _is_positive(curves[column])]
        lines = {net: positive[positive["net"] == net].sort_values("loss") for net in nets}
        losses = _common([line["loss"].to_numpy(float) for line in lines.values()])
        for net, line in lines.items():
            frames[net]["loss"] = losses
            frames[net][column] = _interpolated(losses, line["loss"].to_numpy(float), line[column].to_numpy(float))
    return pd.concat(list(frames.values()), ignore_index=True)


def _is_positive(numbers: pd.Series) -> pd.Series:
    return (numbers > 0) & (numbers < np.inf)


def _common(losses: Sequence[np.ndarray]) -> np.ndarray:
    """Return losses that all nets have, largest first; null if their range is too small."""
    if not all(map(len, losses)):
        return np.full(_NUM_LOSSES, np.nan)
    low, high = max(float(each.min()) for each in losses), min(float(each.max()) for each in losses)
    if high < LEAST_RANGE * low:
        return np.full(_NUM_LOSSES, np.nan)
    return np.geomspace(high, low, _NUM_LOSSES)


def _interpolated(losses: np.ndarray, places: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(losses).all():
        return np.full(len(losses), np.nan)
    return np.exp(np.interp(np.log(losses), np.log(places), np.log(values)))
