"""One number per run, step and question: gradient shift over all layers, and the landscape along the gradient."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ics.analysis.frames import IDENTITY, after_first_layer
from ics.analysis.gradient_line import MAXIMA, band_measures, landscape_bands
from ics.analysis.gradient_shift import shift_against_floor
from ics.analysis.run_tables import read
from ics.store import Runs

SHIFTS = ("shift_l2", "shift_cosine", "shift_relative", "shift_over_floor")
BANDS = ("loss_range", "gradient_change", "beta", "beta_over_edge")
_KEYS = [*IDENTITY, "step"]


def shifts_per_step(runs: Runs) -> pd.DataFrame | None:
    """Return the shift of each run and step: median over the layers after the first, whose shift is always 0."""
    frame = read(runs, "gradient_shift", where={"parameters": "weight"})
    if frame is None:
        return None
    # Both leave out the same rows in the same order, so that positions match where the index does not.
    ratios = shift_against_floor(frame)["shift_over_floor"]
    later = after_first_layer(frame).reset_index(drop=True).assign(shift_over_floor=ratios.to_numpy())
    return later.groupby(_KEYS, dropna=False)[list(SHIFTS)].median().reset_index()


def bands_per_step(runs: Runs, *, etas: tuple[float, float] | None) -> pd.DataFrame | None:
    """Return the landscape along the gradient of each run and step.

    Where the loss was not a number, its range has no end and the maxima count as infinite. If such steps were left out,
    a diverging net would look smooth.
    """
    frame = read(runs, "gradient_line", where={"direction": "gradient"})
    if frame is None:
        return None
    bands = landscape_bands(frame, etas=etas)
    overflowed = bands["loss_max"].isna()
    bands = bands.assign(**{name: bands[name].mask(overflowed, np.inf) for name in MAXIMA})
    return band_measures(bands)[[*_KEYS, *BANDS]]


def steps_where_less(per_step: pd.DataFrame | None, measure: str, *, net: str, than: str) -> tuple[int, int] | None:
    """Return at how many steps `net` had the smaller value (median over its runs), of how many that both have.

    None where they have none in common.
    """
    if per_step is None:
        return None
    curves = per_step.pivot_table(index="step", columns="net", values=measure, aggfunc="median", dropna=False)
    both = curves.reindex(columns=[net, than]).dropna()
    return (int((both[net] < both[than]).sum()), len(both)) if len(both) else None
