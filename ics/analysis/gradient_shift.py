"""Internal covariate shift as Santurkar et al. 2018 define it (Def. 2.1), gathered over seeds, with its noise floor."""

from __future__ import annotations

import pandas as pd

from ics.analysis.frames import IDENTITY, after_first_layer, checked, chosen, over_seeds

MEASURES = ("l2", "cosine", "relative")
_VALUES = tuple(f"{kind}_{measure}" for measure in MEASURES for kind in ("shift", "floor"))
_KEYS = ("step", "layer", "layer_index", "parameters")


def shift_over_steps(frame: pd.DataFrame, *, parameters: str = "weight") -> pd.DataFrame:
    """Gather the shift of each layer and step over the seeds of a net.

    Args:
        frame: rows of the table gradient_shift.
        parameters: `"weight"`, or `"all"` parameters of the layer.

    Returns:
        A row per net, layer, step and `measure` (`"l2"`: ||G - G'||, `"cosine"`: cos(G, G'), `"relative"`:
        ||G - G'|| / ||G||): `shift`, median over runs, `shift_low` and `shift_high`, min and max, and likewise `floor`:
        the same between G and the gradient of a second batch at the same weights. `num_runs` counts the runs.

    Raises:
        SelectionError: a column is missing, or no row has these `parameters`.
        UsageError: no rows.
    """
    rows = chosen(checked(frame, "gradient_shift", (*_KEYS, *_VALUES)), "parameters", parameters)
    by = ("net", "layer", "layer_index", "parameters", "step", "measure")
    gathered = over_seeds(_tidy(rows), by=by, values=("shift", "floor"))
    return gathered.sort_values(["layer_index", "step"], kind="stable", ignore_index=True)


def shift_by_layer(frame: pd.DataFrame, *, parameters: str = "weight") -> pd.DataFrame:
    """Gather the shift of each layer over all of its steps, then over the seeds of a net.

    Per run the median over steps; then over runs the median (`shift`, `floor`), min (`_low`) and max (`_high`).
    `num_steps` is the largest number of steps of a run. Otherwise as `shift_over_steps`.
    """
    rows = chosen(checked(frame, "gradient_shift", (*_KEYS, *_VALUES)), "parameters", parameters)
    tidy = _tidy(rows)
    place = ["net", "layer", "layer_index", "parameters", "measure"]
    grouped = tidy.groupby(["run", *place], dropna=False, sort=False)
    per_run = grouped[["shift", "floor"]].median().assign(num_steps=grouped["step"].nunique()).reset_index()
    gathered = over_seeds(per_run, by=place, values=("shift", "floor"))
    num_steps = per_run.groupby(place, dropna=False, sort=False)["num_steps"].max().reset_index()
    return gathered.merge(num_steps, on=place).sort_values("layer_index", kind="stable", ignore_index=True)


def shift_against_floor(frame: pd.DataFrame, *, parameters: str = "weight") -> pd.DataFrame:
    """Return per run, step and layer how large the shift is as a multiple of its noise floor, ||G - G'|| / ||G - G_b||.

    The layer that runs first is left out: nothing is updated before it, so its shift is 0 by definition. A row
    without shift or floor, or with a floor of 0, has a null ratio.
    """
    rows = chosen(checked(frame, "gradient_shift", (*_KEYS, "shift_l2", "floor_l2")), "parameters", parameters)
    rows = after_first_layer(rows)
    # With full batches the second batch is the first, and the floor is rightly 0.
    ratio = rows["shift_l2"] / rows["floor_l2"].where(rows["floor_l2"] > 0)
    return rows[[*IDENTITY, *_KEYS]].assign(shift_over_floor=ratio)


def _tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per measure with columns shift and floor."""
    keys = [*IDENTITY, *_KEYS]
    pieces = [
        rows[keys].assign(measure=measure, shift=rows[f"shift_{measure}"], floor=rows[f"floor_{measure}"])
        for measure in MEASURES
    ]
    return pd.concat(pieces, ignore_index=True).sort_values("step", kind="stable")
