"""C07: does it matter that one layer sees the same distribution over time, or that layers are alike?

Nets that differ only in their normalisation are ranked three times: by their final training loss, by how far the
distribution that a layer sees moves between two measured steps, and by how far apart two layers are at one step. Both
distances are the same function of two distributions. A distance that matters should rank the nets as their loss does.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from ics.analysis import after_first_layer
from ics.claims.measures.training import final_loss
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, below
from ics.experiments.training.config import RunConfig

_NORMS = ("none", "batch", "batch-fixed-affine", "noisy-batch", "layer", "group")
_ALL, _LAYERS, _STEPS = "all nets", "between layers at one step", "between steps of one layer"


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """The digits net under six normalisations."""
    return tuple(base(budget, norm=norm) for norm in _NORMS)


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Rank correlations over nets, and for each net how much further apart its layers are than its steps."""
    inputs = found.table("activations", columns=("step", "layer", "layer_index", "mean", "m2"), where={"site": "input"})
    # What the first layer sees are the data: no training changes them.
    inputs = after_first_layer(inputs)
    over_time, between_layers = spread(inputs, along="step"), spread(inputs, along="layer")
    loss = final_loss(found)
    time_rank, layer_rank = correlation(over_time, loss), correlation(between_layers, loss)
    told = "rank correlation over nets (Spearman) of final training loss and distance between "
    effects = [
        value(time_rank, _ALL, measure="time_correlation", meaning=told + "steps of one layer", unit="1"),
        value(layer_rank, _ALL, measure="layer_correlation", meaning=told + "layers at one step", unit="1"),
    ]
    both = pd.concat({_LAYERS: between_layers, _STEPS: over_time}).rename_axis(["kind", "net", "seed"])
    for net, numbers in both.groupby("net", sort=False):
        own = numbers.droplevel("net")
        effects.append(ratio(own, _LAYERS, _STEPS, measure="layers_over_steps", setting=str(net), meaning="distance"))
    return tuple(effects)


def spread(inputs: pd.DataFrame, *, along: str) -> pd.Series:
    """Return the mean distance between two `along` ("step" or "layer") that agree in the other, by net and seed.

    The distance of two distributions is that of the normal ones with their mean m and standard deviation s
    (Wasserstein-2) in units of the geometric mean of s: sqrt(((m_1 - m_2)^2 + (s_1 - s_2)^2) / (s_1 s_2)). Mean over
    pairs, then the median over layers (or steps). Infinite where moments are not finite: the net diverged.
    """
    other = "layer" if along == "step" else "step"
    distances = {
        key: _mean_distance(rows["mean"].to_numpy(float), np.sqrt(rows["m2"].to_numpy(float)))
        for key, rows in inputs.groupby(["net", "seed", other], sort=False)
    }
    series = pd.Series(distances).rename_axis(["net", "seed", other])
    return series.groupby(["net", "seed"]).median()


def correlation(spreads: pd.Series, loss: pd.Series) -> pd.Series:
    """Return Spearman's rank correlation of the two over nets, by seed, under the net "all nets"."""
    both = pd.DataFrame({"spread": spreads, "loss": loss}).dropna().rename_axis(["net", "seed"])
    found = {
        (_ALL, seed): float(stats.spearmanr(rows["spread"], rows["loss"]).statistic) if _ranks(rows) else float("nan")
        for seed, rows in both.groupby("seed")
    }
    return pd.Series(found, dtype=float)


def _ranks(rows: pd.DataFrame) -> bool:
    return len(rows) >= 3 and bool((rows.nunique() > 1).all())


def _mean_distance(mean: np.ndarray, std: np.ndarray) -> float:
    pairs = np.array(list(combinations(range(len(mean)), 2)), dtype=int).reshape(-1, 2).T
    if not pairs.size:
        return float("nan")
    i, j = pairs
    with np.errstate(all="ignore"):
        # By both standard deviations: of two layers, unlike of two steps, neither is the reference.
        squared = ((mean[i] - mean[j]) ** 2 + (std[i] - std[j]) ** 2) / (std[i] * std[j])
        distance = np.sqrt(squared)
    return float(np.where(np.isnan(distance), np.inf, distance).mean())


_WHY = "0.3 is the smallest rank correlation that is commonly called weak instead of none"

C07 = Claim(
    id="C07",
    nets=nets,
    evidence=evidence,
    rule=(above("time_correlation", 0.3, why=_WHY), below("layer_correlation", 0.3, why=_WHY)),
    published="No measurement is known to us.",
    remark=f"Correlations over {len(_NORMS)} nets ({', '.join(net_name(norm) for norm in _NORMS)}), one per seed: what "
    "goes together with a low loss, which is not yet what causes it. Distances are of the pooled values that a layer "
    "sees, because units of different layers do not correspond.",
)
