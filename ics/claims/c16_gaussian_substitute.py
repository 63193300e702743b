"""C16: does a penalty that pulls pre-activations towards N(0, 1) do what BatchNorm does for training?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from ics.claims.measures.training import final_loss, steps_to
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, difference, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, below
from ics.experiments.training.config import RunConfig
from ics.experiments.training.penalty import VARIANCE_FLOOR

_STRENGTHS = (0.01, 0.1, 1.0)
_RATES = (1, 5)
_LEVEL = 1.0
_CHANNELS = ("channel_mean", "channel_m2", "channel_m3", "channel_m4")


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """Of each base the standard, the BatchNorm net and three penalised ones; of the first at 5 x the rate as well."""
    return tuple(config for name, times in _settings(budget) for config in _family(budget, name, times))


def _family(budget: ClaimBudget, name: str, times: int) -> list[RunConfig]:
    rivals = [base(budget, name, norm=norm) for norm in ("none", "batch")]
    every = max(rivals[0].steps // 10, 1)
    few: dict[str, Any] = {"instruments": {"activations": f"every({every})"}, "options": {}}
    penalised = [
        rivals[0].replace(net=_penalised(name, strength), gaussian_penalty=strength, **few) for strength in _STRENGTHS
    ]
    if times == 1:
        return [*rivals, *penalised]
    faster = [config.replace(**few) for config in rivals] + penalised
    return [
        config.replace(net=config.net + _rate(times), learning_rate=times * config.learning_rate) for config in faster
    ]


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """The best strength against BatchNorm, by what the standard net leaves to be gained, by speed and by accuracy."""
    effects: list[Effect] = []
    measured = {
        "loss": final_loss(found),
        "steps": steps_to(found, _LEVEL),
        "accuracy": final_loss(found, column="test_accuracy"),
        "divergence": _divergences(found),
    }
    for name, times in _settings(found.budget):
        plain, normed = (net_name(norm, name) + _rate(times) for norm in ("none", "batch"))
        rivals = [_penalised(name, strength) + _rate(times) for strength in _STRENGTHS]
        chosen = best_net(measured["loss"], rivals)
        effects += _compared(measured, plain, normed, chosen, setting=f"{name}{_rate(times)}")
    return tuple(effects)


def _compared(measured: dict[str, pd.Series], plain: str, normed: str, chosen: str, *, setting: str) -> list[Effect]:
    note = f"strength by the loss: {chosen}"
    told = "ln(loss of standard / penalty) / ln(loss of standard / BatchNorm) at the end of training"
    share = recovered(measured["loss"], plain, normed, chosen)
    words = {"setting": setting, "note": note}
    return [
        value(share, chosen, measure="improvement_recovered", meaning=told, unit="1", **words),
        ratio(
            measured["steps"],
            chosen,
            normed,
            measure="steps",
            meaning=f"steps to a training loss of {_LEVEL:g}",
            **words,
        ),
        difference(
            measured["accuracy"],
            normed,
            chosen,
            measure="accuracy_missed",
            meaning="test accuracy at the end",
            unit="1",
            **words,
        ),
        *(
            value(
                measured["divergence"],
                net,
                measure="divergence",
                unit="nat",
                setting=net,
                meaning="KL from N(0, 1) of what a unit hands to its activation function, median over layers and steps",
            )
            for net in (plain, chosen, normed)
        ),
    ]


def best_net(losses: pd.Series, nets: list[str]) -> str:
    """Return the net whose median loss over seeds is smallest: one for all seeds and measures."""
    # Not the best of each seed, which would choose by luck; not a mean, which one diverged seed makes infinite.
    medians = losses.groupby("net").median()
    return min(nets, key=lambda net: float(medians.get(net, math.inf)))


def recovered(losses: pd.Series, plain: str, normed: str, penalised: str) -> pd.Series:
    """Return which part of the logarithmic improvement from `plain` to `normed` the net `penalised` makes, by seed.

    0 is the loss of `plain`, 1 that of `normed`. NaN where BatchNorm improves nothing, so that there is nothing to
    recover; where only `plain` diverged, 1 for a net that did not and 0 for one that did.
    """
    table = losses.unstack("net").reindex(columns=[plain, normed, penalised])
    shares = [_share(*row) for row in table.to_numpy(float)]
    index = pd.MultiIndex.from_product([[penalised], table.index], names=["net", "seed"])
    return pd.Series(shares, index=index, dtype=float)


def _share(plain: float, normed: float, penalised: float) -> float:
    if math.isnan(plain + normed + penalised) or not normed < plain:
        return float("nan")
    if math.isinf(plain):
        return float(math.isfinite(penalised))
    if math.isinf(penalised):
        return -math.inf
    return math.log(plain / penalised) / math.log(plain / normed)


def _divergences(found: Evidence) -> pd.Series:
    """KL from N(0, 1) by net and seed: of Wu+b, or with BatchNorm of its x-hat."""
    columns = ("step", "layer_index", "site", *_CHANNELS)
    rows = found.table("activations", columns=columns, where={"site": ["preactivation", "normalized"]})
    last = rows["layer_index"] == rows.groupby("run")["layer_index"].transform("max")
    has_norm = rows.groupby(["run", "layer_index"])["site"].transform(lambda sites: (sites == "normalized").any())
    seen = rows[~last & ((rows["site"] == "normalized") | ~has_norm)]
    cells = zip(*(seen[name] for name in _CHANNELS), strict=True)
    return per_seed(seen.assign(divergence=[gaussian_divergence(*each) for each in cells]), "divergence")


def gaussian_divergence(mean: np.ndarray, m2: np.ndarray, m3: np.ndarray, m4: np.ndarray) -> float:
    """Return the mean over units of KL(p || N(0, 1)) in nats, from central moments, as the penalty has it.

    The formula of `ics.experiments.training.penalty`, of which the gradient is never needed here.
    """
    variance = np.asarray(m2, dtype=float) + VARIANCE_FLOOR
    skewness, excess = m3 / variance**1.5, m4 / variance**2 - 3
    of_normals = (np.square(mean) + variance - 1 - np.log(variance)) / 2
    return float(np.mean(of_normals + skewness**2 / 12 + excess**2 / 48))


def _settings(budget: ClaimBudget) -> list[tuple[str, int]]:
    first, *others = budget.bases
    return [*((first, times) for times in _RATES), *((name, 1) for name in others)]


def _penalised(name: str, strength: float) -> str:
    return f"penalty {strength:g}" if name == "digits" else f"penalty {strength:g}, {name}"


def _rate(times: int) -> str:
    return "" if times == 1 else f", {times} x learning rate"


C16 = Claim(
    id="C16",
    nets=nets,
    evidence=evidence,
    rule=(
        above("improvement_recovered", 0.8, why="a substitute brings four fifths of what it stands in for"),
        below("steps", 1.25, why="a substitute takes a quarter more steps at most"),
        below("accuracy_missed", 0.02, why="a substitute loses two points of test accuracy at most"),
    ),
    published='Penalties that encourage units to have normalised statistics "usually resulted in imperfect '
    'normalization" (Goodfellow, Bengio & Courville 2016, sec. 8.7.1): the book makes no claim for them.',
    remark=f"The strength is that of {', '.join(f'{strength:g}' for strength in _STRENGTHS)} with the lowest training "
    "loss, chosen on the runs that are judged, which favours the penalty a little. It pulls at the shape as well as at "
    "mean and variance, so it asks for more than BatchNorm does; divergence tells what it reaches, BatchNorm's x-hat "
    "having mean 0 and variance 1 by construction. Where BatchNorm does not lower the loss nothing is to be recovered.",
)
