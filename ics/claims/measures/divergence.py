"""A net that diverged records nothing more; what it recorded before must not speak for it."""

from __future__ import annotations

import math

import pandas as pd

from ics.claims.measures.training import diverged
from ics.claims.method.evidence import Evidence


def worst_where_diverged(numbers: pd.Series, found: Evidence, *, worst: float = math.inf) -> pd.Series:
    """Return numbers by net and seed, with `worst` for every run whose last training loss is not finite.

    Args:
        numbers: what `per_seed` returned.
        found: where the losses are.
        worst: infinite, or NaN for what has no worst value, as a direction.

    Example:
        >>> index = pd.MultiIndex.from_tuples([("a", 0), ("b", 0)], names=["net", "seed"])
        >>> steps = pd.DataFrame({"net": ["a", "b"], "seed": 0, "step": 9, "loss": [0.5, math.nan]})
        >>> worst_where_diverged(pd.Series([1.0, 2.0], index), Evidence.of_frames({"steps": steps})).tolist()
        [1.0, inf]
    """
    return numbers.mask(diverged(found).reindex(numbers.index, fill_value=False), worst)
