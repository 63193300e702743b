"""Where the gradient shift of a layer comes from: the share of each earlier layer, gathered over steps and seeds."""

from __future__ import annotations

import pandas as pd

from ics.analysis.frames import checked, chosen, over_seeds
from ics.schema import REMAINDER

_PLACE = ("net", "layer", "layer_index", "source_layer", "source_index", "parameters")
_VALUES = ("share", "fraction")


def attribution_shares(frame: pd.DataFrame, *, parameters: str = "weight", step: int | None = None) -> pd.DataFrame:
    """Gather the share of each source layer in each layer's shift, at one step or over all of them.

    Let s be the whole shift G' - G of layer i, and p its part if only layer j < i is updated. `share` is
    <p, s> / ||s||^2. At each step of a run the shares of all sources and the remainder add up to 1 (medians need not).
    A share may be negative, and above 1 where parts cancel. `fraction` is ||p|| / ||s||. The source "(remainder)"
    holds what layers do only together.

    Args:
        frame: rows of the table attribution.
        parameters: `"weight"`, or `"all"` parameters of the layer.
        step: a measured step; default the median over all of them.

    Returns:
        A row per net, layer and source layer, in the order of execution with the remainder last: `share` and
        `fraction`, median over runs of the median over steps, with `_low` (min) and `_high` (max) over runs;
        `num_runs`, and `num_steps`, the most steps of a run whose shares are known. The layer that runs first has no
        shift, hence null shares.

    Raises:
        SelectionError: a column is missing, or no row has these parameters or this step.
        UsageError: no rows.
    """
    rows = chosen(checked(frame, "attribution", ("step", *_PLACE[1:], *_VALUES)), "parameters", parameters)
    if step is not None:
        rows = chosen(rows, "step", step)
    grouped = rows.groupby(["run", *_PLACE], dropna=False, sort=False)
    num_defined = (
        rows["share"].notna().groupby([rows[name] for name in ("run", *_PLACE)], dropna=False, sort=False).sum()
    )
    # Over the steps of each run first: a run that measured more steps must not count as more seeds.
    per_run = grouped[list(_VALUES)].median().assign(num_steps=num_defined).reset_index()
    num_steps = per_run.groupby(list(_PLACE), dropna=False, sort=False)["num_steps"].max().reset_index()
    gathered = over_seeds(per_run, by=_PLACE, values=_VALUES).merge(num_steps, on=list(_PLACE))
    last = gathered["source_layer"] == REMAINDER
    order = gathered.assign(_last=last).sort_values(["layer_index", "_last", "source_index"], kind="stable")
    return order.drop(columns="_last").reset_index(drop=True)
