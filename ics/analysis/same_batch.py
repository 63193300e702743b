"""Same-batch drift: what updates did to the distributions of one fixed batch, gathered over seeds, beside its floor."""

from __future__ import annotations

import pandas as pd

from ics.analysis.frames import IDENTITY, checked, chosen, over_seeds

DISTANCES = ("mean_shift", "log_variance_ratio", "gaussian_kl", "wasserstein_1")
BEFORE_UPDATE = "before_update"
_KEYS = ("step", "layer", "layer_index", "call", "site", "reference")


def drift_over_steps(frame: pd.DataFrame, *, site: str = "preactivation") -> pd.DataFrame:
    """Gather the drift of each place and step over the seeds of a net; references are kept apart.

    Args:
        frame: rows of the table drift.
        site: `"input"`, `"preactivation"`, `"normalized"`, `"scaled"` or `"activation"`.

    Returns:
        A row per net, layer, call, reference, step and `measure` (`"mean_shift"`, `"log_variance_ratio"`,
        `"gaussian_kl"` or `"wasserstein_1"`, see docs/metrics.md): `drift`, median over runs, `drift_low` and
        `drift_high`, min and max, and likewise `floor`: the same distance between two halves of the probe batch.
        `reference` is "before_update" (what this update did) or "step_<n>" (what all updates since step n did).

    Raises:
        SelectionError: a column is missing, or the site was not recorded.
        UsageError: no rows.
    """
    columns = (*_KEYS, *(f"{prefix}{name}" for name in DISTANCES for prefix in ("", "floor_")))
    rows = chosen(checked(frame, "drift", columns), "site", site)
    keys = [*IDENTITY, *_KEYS]
    pieces = [rows[keys].assign(measure=name, drift=rows[name], floor=rows[f"floor_{name}"]) for name in DISTANCES]
    by = ("net", *_KEYS[1:], "step", "measure")
    gathered = over_seeds(pd.concat(pieces, ignore_index=True), by=by, values=("drift", "floor"))
    return gathered.sort_values(["layer_index", "call", "reference", "step"], kind="stable", ignore_index=True)
