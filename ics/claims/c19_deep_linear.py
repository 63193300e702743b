"""C19: in a deep linear net, does the shift come with BatchNorm only?"""

from __future__ import annotations

import math

from ics.analysis import after_first_layer
from ics.claims.measures.training import worst_where_diverged
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, below, within
from ics.experiments.training.config import RunConfig

_PUBLISHED_RATES = (1e-6, 1e-7)
_COLUMNS = ("step", "layer", "layer_index", "shift_cosine", "shift_relative")
_OVER_LAYERS = "median over layers after the first, then over steps"
_MEASURES = {
    "shift_without": ("none", "shift_relative", "||G - G'|| / ||G||"),
    "cosine_without": ("none", "shift_cosine", "cos(G, G')"),
    "cosine_with": ("batch", "shift_cosine", "cos(G, G')"),
    "absolute_cosine_with": ("batch", "absolute_cosine", "|cos(G, G')|"),
    "shift_with": ("batch", "shift_relative", "||G - G'|| / ||G||"),
}
"""Measure to norm, column and meaning."""


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """The deep linear net with and without BatchNorm, at both learning rates of the source."""
    return tuple(_net(budget, norm, rate) for rate in _PUBLISHED_RATES for norm in ("none", "batch"))


def _net(budget: ClaimBudget, norm: str, rate: float) -> RunConfig:
    shared = base(budget, "linear", norm=norm)
    if rate == shared.learning_rate:
        return shared
    shift = {"gradient_shift": shared.instruments["gradient_shift"]}
    return shared.replace(net=_name(norm, rate), learning_rate=rate, instruments=shift)


def _name(norm: str, rate: float) -> str:
    name = net_name(norm, "linear")
    return name if rate == _PUBLISHED_RATES[0] else f"{name}, lr {rate:g}"


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Size and direction of the shift of both nets at each learning rate."""
    rows = found.table("gradient_shift", columns=_COLUMNS, where={"parameters": "weight"})
    rows = after_first_layer(rows)
    rows = rows.assign(absolute_cosine=rows["shift_cosine"].abs())
    # A direction has no infinite value: where the net diverged it is undefined.
    numbers = {
        column: worst_where_diverged(per_seed(rows, column), found, worst=worst)
        for column, worst in (("shift_relative", math.inf), ("shift_cosine", math.nan), ("absolute_cosine", math.nan))
    }
    return tuple(
        value(
            numbers[column],
            _name(norm, rate),
            measure=measure,
            meaning=f"{meaning}, {_OVER_LAYERS}",
            unit="1",
            setting=f"lr {rate:g}",
        )
        for rate in _PUBLISHED_RATES
        for measure, (norm, column, meaning) in _MEASURES.items()
    )


_NONE = "a tenth of the gradient is the most that is almost no shift"
_TURNED = "a cosine of 0.25 explains 6 % of the squared length: the most that is almost uncorrelated"

C19 = Claim(
    id="C19",
    nets=nets,
    evidence=evidence,
    rule=(
        below("shift_without", 0.1, why=_NONE),
        above("cosine_without", 0.95, why="18 degrees: the most that is almost no change of direction"),
        within("cosine_with", -0.25, 0.25, why=_TURNED),
        below("absolute_cosine_with", 0.25, why=f"{_TURNED}; cosines of alternating sign have a median near 0 too"),
    ),
    published="25 layers, lr 1e-6 and 1e-7, 10 000 steps: the standard net has almost no shift, and with BatchNorm G "
    "and G' are almost uncorrelated (Santurkar et al. 2018, sec. 2.2 and Fig. 2, where lr is 1e-7).",
    remark="The published setting but for the number of steps: smaller budgets see the first 200 or 2000 of 10 000. "
    "The answer can depend on the learning rate, on time and on the layer: docs/deep_linear.md has the whole training. "
    "A draft had the border of cosine_without at 0.9. It was moved, and cosines of alternating sign got a criterion of "
    "their own, after a trial run; no vote of the budget cpu depends on where that border lies.",
)
