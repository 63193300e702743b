"""C29 on tables for which the verdict is known, in both directions."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest

from ics.claims import CLAIMS, Evidence, weigh
from ics.claims.c29_gradient_growth import PREDICTED, growth

SEEDS = range(4)


def growths(batch_norm: float, standard: float) -> dict[str, pd.DataFrame]:
    rows = [
        {"net": net, "seed": seed, "layer_index": layer, "growth": 50.0 if layer < 2 else rate * (1 + 0.001 * seed)}
        for (net, rate), seed, layer in product((("BatchNorm", batch_norm), ("standard", standard)), SEEDS, range(8))
    ]
    return {"growth": pd.DataFrame(rows)}


@pytest.mark.parametrize(
    ("batch_norm", "standard", "outcome"),
    [(1.211, 1.0, "supported"), (1.0, 1.3, "contradicted"), (1.0, 1.0, "mixed"), (1.3, 1.0, "mixed")],
)
def test_growth_of_gradients(batch_norm: float, standard: float, outcome: str) -> None:
    evidence = Evidence.of_frames(studies=growths(batch_norm, standard))
    assert weigh(CLAIMS["C29"], evidence)[1].outcome == outcome


def test_gradients_do_grow_so() -> None:
    frame = pd.concat([growth(seed=seed, depth=10, width=256, batch_size=256).assign(seed=seed) for seed in range(3)])
    effects, _ = weigh(CLAIMS["C29"], Evidence.of_frames(studies={"growth": frame}))
    batch_norm, standard = (effect.estimate.center for effect in effects)
    assert batch_norm == pytest.approx(PREDICTED, abs=0.02)
    assert standard == pytest.approx(1.0, abs=0.02)
