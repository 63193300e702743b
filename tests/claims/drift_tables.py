"""Tables of drift, made up, for which the verdict is known."""

from __future__ import annotations

import math
from itertools import product

import pandas as pd

PLAIN, NORMED, FIXED = "standard", "BatchNorm", "BatchNorm, gamma and beta fixed"
DISTANCES = ("mean_shift", "log_variance_ratio", "wasserstein_1")
SEEDS = 4
Sizes = dict[tuple[str, str], float]


def drift(sizes: Sizes, *, per_update: Sizes | None = None) -> pd.DataFrame:
    """Drift of (net, site): the same by every distance; that of one update a hundredth, or as told."""
    rows = []
    for ((net, site), size), seed, layer, step in product(sizes.items(), range(SEEDS), range(4), (0, 10, 20)):
        for reference in ("before_update", "step_0")[: 1 + (step > 0)]:
            by_update = (per_update or sizes)[net, site] / 100
            number = (size if reference == "step_0" else by_update) * (1 + 0.02 * seed * (net != PLAIN))
            number = 1e3 if (layer, site) in {(3, "preactivation"), (3, "scaled"), (0, "input")} else number
            rows.append(
                {"net": net, "seed": seed, "step": step, "layer": f"l{layer}", "layer_index": layer, "call": 0}
                | {"site": site, "reference": reference}
                | dict.fromkeys(DISTANCES, number)
            )
    return pd.DataFrame(rows)


def first(frames: dict[str, pd.DataFrame], seeds: int) -> dict[str, pd.DataFrame]:
    return {name: frame[frame["seed"] < seeds] for name, frame in frames.items()}


def losses(*lost: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"net": net, "seed": seed, "step": step, "loss": math.nan if net in lost and step else 1.0}
        for net, seed, step in product((PLAIN, NORMED, FIXED), range(SEEDS), (0, 1))
    )
