"""C08 on tables for which the verdict is known, in both directions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from ics.claims import CLAIMS, Evidence, weigh

SEEDS = range(4)


def shapes(change: float) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    rows = []
    for seed, step, layer in product(SEEDS, range(2), range(3)):
        values = rng.gamma(2.0, size=(500, 5))
        gamma, beta = rng.normal(size=5), rng.normal(size=5)
        for site, one in (("normalized", values), ("scaled", gamma * values + beta + change * values**2)):
            centred = one - one.mean(axis=0)
            moments = [(centred**power).mean(axis=0) for power in (2, 3, 4)]
            pooled = [((one - one.mean()) ** power).mean() for power in (2, 3, 4)]
            rows.append(
                {"net": "BatchNorm, float64", "seed": seed, "step": step, "layer": f"l{layer}", "layer_index": layer}
                | {"call": 0, "site": site}
                | dict(zip(("m2", "m3", "m4"), pooled, strict=True))
                | {f"channel_m{power}": moment for power, moment in zip((2, 3, 4), moments, strict=True)}
            )
    return {"activations": pd.DataFrame(rows)}


@pytest.mark.parametrize(("change", "outcome"), [(0.0, "supported"), (1e-4, "contradicted")])
def test_gamma_and_beta_change_no_shape_but_a_square_does(change: float, outcome: str) -> None:
    effects, verdict = weigh(CLAIMS["C08"], Evidence.of_frames(shapes(change)))
    assert verdict.outcome == outcome
    pooled = next(effect for effect in effects if effect.measure == "pooled_skewness_change")
    assert min(pooled.numbers) > 1e-3  # all channels together do change their shape
