"""Studies of the shape of u and Wu+b, made up, for which the verdict is known."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import pandas as pd

from ics.claims import Evidence, weigh
from ics.claims.c01_shape_drift import SHAPE_CHANGES
from ics.claims.method.claim import Claim

SETTINGS = ("digits, ReLU", "digits, tanh")
STATES = ("ks", "skewness", "excess_kurtosis", "density", "zero_fraction")
MEASUREMENTS = ((0, 0), (10, 10), (20, 20), (10, 0), (20, 0), (20, 10))


def study(factor: float | Mapping[str, float], *, seeds: int = 4, spread: float = 0.02) -> pd.DataFrame:
    """u is 1 by every measure; Wu+b is `factor`, or that of the measure; first and last layer are misleading."""
    rows = []
    for seed, site, layer, (step, then) in product(range(seeds), ("input", "preactivation"), range(4), MEASUREMENTS):
        states = (*STATES, *(f"pooled_{name}" for name in STATES), "shape_floor", "ks_of_normal")
        for name in states if step == then else SHAPE_CHANGES:
            wanted = factor if isinstance(factor, float) else factor.get(name, 0.5)
            value = wanted * (1 + spread * seed) if site == "preactivation" else 1.0
            value = value if 0 < layer < 3 else 1e3
            rows.append(
                {"layer": f"l{layer}", "layer_index": layer, "fan_in": 8, "site": site, "step": step, "seed": seed}
                | {"reference_step": then, "measure": name, "value": value, "num_units": 8, "num_constant": 2}
            )
    return pd.DataFrame(rows)


def weighed(claim: Claim, *studies: pd.DataFrame):
    found = dict(zip(SETTINGS, studies if len(studies) > 1 else studies * 2, strict=True))
    return weigh(claim, Evidence.of_frames(studies=found))
