"""C06: do gamma and beta, when they are learned, undo the fixing of the distribution that the next layer sees?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ics.analysis import after_first_layer
from ics.claims.c04_after_norm import BEFORE_UPDATE, DRIFT
from ics.claims.measures.stability import without_end
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above
from ics.experiments.training.config import RunConfig

_LEARNED, _FIXED = "batch", "batch-fixed-affine"
_HOW = "Wasserstein-1 distance of the same batch now and before training; mean over units, median over layers and steps"
_X_HAT, _Y = "x-hat", "y"
_AFFINE = {"gamma_change": ("channel_weight", "gamma"), "beta_change": ("channel_bias", "beta")}


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """BatchNorm as it is, and with gamma = 1 and beta = 0 kept, for each base of the budget."""
    return tuple(base(budget, name, norm=norm) for name in budget.bases for norm in (_LEARNED, _FIXED))


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """y against x-hat in one net, the next layer's input with gamma and beta learned or fixed, and how these move."""
    rows = found.table("drift", columns=DRIFT, where={"site": ["normalized", "scaled", "input"]})
    rows = rows[rows["reference"] != BEFORE_UPDATE]
    parameters = found.table("normalization", columns=("step", "layer", "call", "channel_weight", "channel_bias"))
    effects: list[Effect] = []
    for name in found.budget.bases:
        learned, fixed = net_name(_LEARNED, name), net_name(_FIXED, name)
        own = rows[(rows["net"] == learned) & rows["site"].isin(["normalized", "scaled"])]
        sites = per_seed(own.assign(net=own["site"].map({"normalized": _X_HAT, "scaled": _Y})), "wasserstein_1")
        seen = without_end(found, per_seed(seen_by_the_next(rows), "wasserstein_1"))
        next_layer = f"what the next layer sees: {_HOW}"
        effects += [
            ratio(sites, _Y, _X_HAT, measure="y_over_x_hat", meaning=_HOW, setting=name),
            value(seen, learned, measure="input_change", meaning=next_layer, unit="std", setting=name),
            ratio(seen, learned, fixed, measure="input_over_fixed", meaning=next_layer, setting=name),
            value(seen, fixed, measure="input_change_of_fixed", meaning=next_layer, unit="std", setting=name),
        ]
        own = parameters[parameters["net"] == learned]
        for measure, (column, told) in _AFFINE.items():
            meaning = f"root mean square change of {told} over channels, from first to last look, median over layers"
            numbers = moved(own, column)
            effects.append(value(numbers, learned, measure=measure, meaning=meaning, unit="1", setting=name))
    return tuple(effects)


def seen_by_the_next(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of inputs that went through a normalisation: those of all layers but the first."""
    inputs = rows[rows["site"] == "input"]
    return after_first_layer(inputs)


def moved(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return the root mean square over channels of the last - the first value of a parameter, median over layers.

    By net and seed. inf where the last is not finite.
    """
    ordered = rows.sort_values("step").groupby(["net", "seed", "layer", "call"], sort=False)[column]
    ends = ordered.agg(["first", "last"]).dropna()
    sizes = [_root_mean_square(last, first) for first, last in zip(ends["first"], ends["last"], strict=True)]
    return pd.Series(sizes, index=ends.index, dtype=float).groupby(["net", "seed"]).median()


def _root_mean_square(last: np.ndarray, first: np.ndarray) -> float:
    change = np.asarray(last, dtype=float) - np.asarray(first, dtype=float)
    return float(np.sqrt(np.square(change).mean())) if np.isfinite(change).all() else float("inf")


_TENTH = "a tenth of the standard deviation that BatchNorm sets is the smallest move that counts"
_MORE = "a tenth more is the smallest difference that counts"

C06 = Claim(
    id="C06",
    nets=nets,
    evidence=evidence,
    rule=(
        above("input_change", 0.1, why="a tenth of a standard deviation is the smallest drift that counts"),
        above("y_over_x_hat", 1.1, why=_MORE),
        above("input_over_fixed", 1.1, why=_MORE),
        *(above(measure, 0.1, why=_TENTH) for measure in _AFFINE),
    ),
    published="gamma and beta are there so that a normalised layer can still represent the identity (Ioffe & Szegedy "
    "2015, sec. 3); whether they then undo the fixing is not measured there.",
    remark="Three questions in one: whether what the next layer sees moves at all (input_change); whether gamma and "
    "beta move y beyond x-hat (y_over_x_hat); and whether they are the reason, which a net that keeps gamma = 1 and "
    "beta = 0 tells (input_over_fixed). That net trains otherwise in its weights too. The longer a training, the "
    "further parameters move.",
)
