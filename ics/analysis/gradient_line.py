"""The loss landscape along a line, as bands over the step size (Santurkar et al. 2018, sec. 3 and Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ics.analysis.frames import IDENTITY, checked, chosen, over_seeds, require_one_rate
from ics.errors import UsageError
from ics.schema import WHOLE_NET

_KEYS = [*IDENTITY, "step", "layer", "direction"]
_COLUMNS = ("step", "layer", "direction", "eta", "distance", "loss", "gradient_change_l2", "learning_rate")
MAXIMA = ("loss_max", "gradient_change_max", "beta_max")
"""The columns of `landscape_bands` that are null where the loss overflowed at a probed point."""
_VALUES = (
    "loss_min",
    "loss_max",
    "loss_start",
    "gradient_change_min",
    "gradient_change_max",
    "beta_max",
    "two_over_lr",
)


def landscape_bands(
    frame: pd.DataFrame,
    *,
    direction: str = "gradient",
    layer: str = WHOLE_NET,
    etas: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Reduce the profile of each run and step to its bands over the step size eta > 0.

    `loss_min`, `loss_max`: range of L(w_eta); `loss_start`: L(w) (eta = 0); `gradient_change_min` and `_max`: gradient
    predictiveness, the range of ||grad L(w_eta) - g||_2; `beta_max`: effective beta-smoothness, the maximum of
    ||grad L(w_eta) - g|| / ||w_eta - w||; `two_over_lr`: 2 / learning rate, where training at the edge of stability
    holds beta; `eta_min`, `eta_max`, `num_etas`: what was probed. Several random draws count together.

    A maximum is null if the value is null or NaN at any eta that was probed (a loss that overflowed has no known
    maximum); a minimum is that of the known values. `null_reason` says so.

    Args:
        frame: rows of the table gradient_line.
        direction: `"gradient"`, `"update"` or `"random"`.
        layer: `"(all)"` for lines along which the whole net moved, or the layer that moved alone.
        etas: use only step sizes in this closed range, to compare nets at equal eta.

    Returns:
        A row per run, net, seed, step, layer and direction.

    Raises:
        SelectionError: a column is missing, or the direction or layer was not recorded.
        UsageError: no rows, or none with eta > 0 in the range.

    Example:
        >>> line = {"step": 0, "layer": "(all)", "direction": "gradient", "learning_rate": 0.1,
        ...         "eta": [0.0, 0.1, 0.2], "distance": [0.0, 0.2, 0.4],
        ...         "loss": [3.0, 1.0, 2.0], "gradient_change_l2": [0.0, 1.0, 4.0]}
        >>> landscape_bands(pd.DataFrame(line))[["loss_min", "loss_max", "loss_start", "beta_max", "two_over_lr"]]
           loss_min  loss_max  loss_start  beta_max  two_over_lr
        0       1.0       2.0         3.0      10.0         20.0
    """
    rows = chosen(chosen(_checked(frame), "layer", layer), "direction", direction)
    probes = rows[rows["eta"] > 0]
    if etas is not None:
        low, high = etas  # slightly widened below: the same eta of two runs may differ in its last bits
        probes = probes[probes["eta"].between(low * (1 - 1e-9), high * (1 + 1e-9))]
    if probes.empty:
        raise UsageError(
            f"expected rows with eta > 0{'' if etas is None else f' within {low:g} to {high:g}'}, got none"
        )
    probes = probes.assign(beta=probes["gradient_change_l2"] / probes["distance"].where(probes["distance"] > 0))
    grouped = probes.groupby(_KEYS, dropna=False, sort=False)
    rate = grouped["learning_rate"].first()
    bands = pd.DataFrame(
        {
            "loss_min": grouped["loss"].min(),
            "loss_max": _maximum(probes, "loss"),
            "loss_start": rows[rows["eta"] == 0].groupby(_KEYS, dropna=False, sort=False)["loss"].first(),
            "gradient_change_min": grouped["gradient_change_l2"].min(),
            "gradient_change_max": _maximum(probes, "gradient_change_l2"),
            "beta_max": _maximum(probes, "beta"),
            "learning_rate": rate,
            "two_over_lr": 2 / rate.where(rate > 0),
            "eta_min": grouped["eta"].min(),
            "eta_max": grouped["eta"].max(),
            "num_etas": grouped["eta"].nunique(),
        },
        index=rate.index,
    )
    return bands.assign(null_reason=pd.Series(_reasons(probes, bands), index=bands.index, dtype=object)).reset_index()


def band_measures(bands: pd.DataFrame) -> pd.DataFrame:
    """Add what one number per step says of the bands that `landscape_bands` returned.

    `loss_range` = loss_max - loss_min; `gradient_change` = gradient_change_max; `beta` = beta_max; `beta_over_edge` =
    beta_max / (2 / learning rate). Null where the maximum is null: the caller decides what an unknown maximum means.
    """
    return bands.assign(
        loss_range=bands["loss_max"] - bands["loss_min"],
        gradient_change=bands["gradient_change_max"],
        beta=bands["beta_max"],
        beta_over_edge=bands["beta_max"] / bands["two_over_lr"],
    )


def landscape_over_steps(
    frame: pd.DataFrame,
    *,
    direction: str = "gradient",
    layer: str = WHOLE_NET,
    etas: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Gather `landscape_bands` over the seeds of a net: per net and step the median, `_low` (min) and `_high` (max).

    All runs of a net must have the same learning rate: the envelope over several rates is the landscape of none.

    Args, Raises: as `landscape_bands`.

    Raises:
        UsageError: runs of one net had different learning rates at the same step.
    """
    bands = landscape_bands(frame, direction=direction, layer=layer, etas=etas)
    require_one_rate(bands)
    values = (*_VALUES, "learning_rate", "eta_min", "eta_max")
    gathered = over_seeds(bands, by=("net", "step", "layer", "direction"), values=values)
    return gathered.sort_values("step", kind="stable", ignore_index=True)


def common_etas(frame: pd.DataFrame, *, by: Sequence[str] = ("net",)) -> tuple[float, float] | None:
    """Return the range of step sizes that every net (or run) was probed at; None if there is none."""
    rows = _checked(frame)
    rows = rows[(rows["layer"] == WHOLE_NET) & (rows["direction"] == "gradient") & (rows["eta"] > 0)]
    ends = rows.groupby(list(by))["eta"].agg(["min", "max"])
    low, high = float(ends["min"].max()), float(ends["max"].min())
    return (low, high) if low <= high * (1 + 1e-9) else None


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the checked frame; rows stored before a layer could be moved alone name none and are of the whole net."""
    rows = checked(frame, "gradient_line", _COLUMNS)
    return rows.assign(layer=rows["layer"].where(rows["layer"].notna(), WHOLE_NET))


def _maximum(probes: pd.DataFrame, column: str) -> pd.Series:
    """Return the maximum per group, null if any member is."""
    # pandas leaves nulls out: what is finite on a line that overflowed would make it look smooth.
    return probes.groupby(_KEYS, dropna=False, sort=False)[column].max().where(_num_null(probes, column) == 0)


def _num_null(probes: pd.DataFrame, column: str) -> pd.Series:
    return probes[column].isna().groupby([probes[name] for name in _KEYS], dropna=False, sort=False).sum()


def _reasons(probes: pd.DataFrame, bands: pd.DataFrame) -> list[str | None]:
    losses, changes = _num_null(probes, "loss"), _num_null(probes, "gradient_change_l2")
    rows = zip(losses.tolist(), changes.tolist(), bands["learning_rate"].tolist(), strict=True)
    return [_reason(*row) for row in rows]


def _reason(null_losses: int, null_changes: int, rate: float) -> str | None:
    reasons = [
        f"{what} null or not a number at {number} probed points"
        for what, number in (("loss", null_losses), ("gradient_change_l2", null_changes))
        if number
    ]
    if not rate > 0:
        reasons.append("the learning rate is 0 or null, so 2/lr is not defined")
    return "; ".join(reasons) or None
