"""Rows of curvature, drift, attribution and normalization, drawn here in the columns of the schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tests.analysis.synthetic import LAYERS, table_of

STEPS = (0, 10, 20, 30)
SEEDS = range(3)
DISTANCES = ("mean_shift", "log_variance_ratio", "gaussian_kl", "wasserstein_1")


def curvature_frame(
    *, curvature: float = 5.0, rate: float = 0.1, steps: Sequence[int] = STEPS, seed: int = 0
) -> pd.DataFrame:
    """Eigenvalues that rise with the steps, batch sharpness below them."""
    random = np.random.default_rng(seed)
    top = curvature * (1 + np.asarray(steps) / 10) * np.exp(random.normal(0, 0.1, len(steps)))
    return pd.DataFrame(
        {
            "step": list(steps),
            "hessian_max_eigenvalue": top,
            "hessian_eigenvalues": [np.array([value]) for value in top],
            "batch_sharpness": top * random.uniform(0.2, 0.9, len(steps)),
            "learning_rate": rate,
            "two_over_lr": 2 / rate,
            "num_products": 20,
            "null_reason": None,
        }
    )


def drift_frame(
    *, drift: float = 0.1, steps: Sequence[int] = STEPS, layers: Sequence[str] = LAYERS, seed: int = 0
) -> pd.DataFrame:
    """Drift of one update and since the first step, which has no row against itself; floors of about 0.3."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for step in steps:
        for index, layer in enumerate(layers):
            for site in ("preactivation", "scaled"):
                for reference in ("before_update", f"step_{steps[0]}")[: 1 if step == steps[0] else 2]:
                    size = drift * (1 if reference == "before_update" else step) * (1 + index)
                    keys = {"step": step, "layer": layer, "layer_index": index, "call": 0, "site": site}
                    moved = {name: size * float(random.uniform(0.5, 2)) for name in DISTANCES}
                    floors = {f"floor_{name}": 0.3 * float(random.uniform(0.9, 1.1)) for name in DISTANCES}
                    rows.append(keys | {"reference": reference} | moved | floors | {"null_reason": None})
    return pd.DataFrame(rows)


def attribution_frame(
    *, alone: float = 0.8, steps: Sequence[int] = STEPS, layers: Sequence[str] = LAYERS, seed: int = 0
) -> pd.DataFrame:
    """Shares that add up to 1 in every row of layers; sources alone make up about `alone` of them."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for step in steps:
        for index, layer in enumerate(layers):
            for parameters in ("weight", "all"):
                shares = alone * random.dirichlet(np.ones(index)) if index else np.empty(0)
                if index == 1:
                    shares = np.ones(1)
                rest = 1 - shares.sum() if index else np.nan
                parts = [(*source, share) for source, share in zip(enumerate(layers), shares, strict=False)]
                for source_index, source, share in [(-1, "(remainder)", rest), *parts]:
                    rows.append(
                        {
                            "step": step,
                            "layer": layer,
                            "layer_index": index,
                            "source_layer": source,
                            "source_index": source_index,
                            "parameters": parameters,
                            "shift_l2": 2 * abs(share) if index else 0.0,
                            "whole_shift_l2": 2.0 if index else 0.0,
                            "fraction": abs(share),
                            "whole_shift_cosine": 1.0,
                            "share": share,
                            "null_reason": None if index else "the shift is exactly zero",
                        }
                    )
    return pd.DataFrame(rows)


def normalization_frame(
    *, gamma: float = 1.0, steps: Sequence[int] = STEPS, layers: Sequence[str] = LAYERS, seed: int = 0
) -> pd.DataFrame:
    """BatchNorm of random values of shape (m, channels), its terms from the definition of Thm 4.1 (eps = 0)."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for step in steps:
        for index, layer in enumerate(layers):
            y, g = random.normal(size=(2, 16, 5)) * (1 + index)
            weight, bias = gamma + random.normal(0, 0.1, 5), random.normal(0, 0.1, 5)
            m, sigma = len(y), y.std(axis=0)
            x_hat, scale = (y - y.mean(axis=0)) / sigma, (weight / sigma) ** 2
            arrived = weight / sigma * (g - g.mean(axis=0) - x_hat * (g * x_hat).mean(axis=0))
            rows.append(
                {
                    "step": step,
                    "layer": layer,
                    "layer_index": index,
                    "call": 0,
                    "kind": "BatchNorm1d",
                    "of_layer": layer,
                    "count": m,
                    "channel_batch_mean": y.mean(axis=0),
                    "channel_batch_variance": y.var(axis=0),
                    "channel_weight": weight,
                    "channel_bias": bias,
                    "output_gradient_squared": (g**2).sum(),
                    "rescaled_gradient_squared": (scale * (g**2).sum(axis=0)).sum(),
                    "mean_term": (scale * g.sum(axis=0) ** 2 / m).sum(),
                    "normalized_term": (scale * (g * x_hat).sum(axis=0) ** 2 / m).sum(),
                    "input_gradient_squared": (arrived**2).sum(),
                    "theorem_error": 0.0,
                    "bias_before_gradient_norm": np.nan,
                    "null_reason": "the layer in front has no bias",
                }
            )
    return pd.DataFrame(rows)


def three(make: Callable[..., pd.DataFrame], **how: Any) -> pd.DataFrame:
    """The frames of three seeds of one net below each other."""
    return table_of({("bn", seed): make(seed=seed, **how) for seed in SEEDS})


def assert_gathered(row: Mapping[Any, Any], name: str, values: Any) -> None:
    """A gathered row holds the median and the ends of the runs' values."""
    wanted = (np.median(values), np.min(values), np.max(values))
    np.testing.assert_allclose((row[name], row[f"{name}_low"], row[f"{name}_high"]), wanted, rtol=1e-12)
