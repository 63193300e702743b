"""C23: does letting only one layer at a time change the sign of its weights tame the interaction between layers?

There are two questions. For one step: do layers do less to the loss only together if the same step is held back this
way? For trainings: do layers disturb each other's gradients less, and what does it cost?
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ics.analysis import after_first_layer
from ics.claims.measures.taylor_error import TAYLOR_COLUMNS, at_learning_rate
from ics.claims.measures.training import final_loss
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import below
from ics.claims.method.runs import changed
from ics.claims.method.study import Study
from ics.claims.studies.held_back_steps import HELD, SHORTER, WHOLE
from ics.experiments.training.config import RunConfig

_NUM_MEASUREMENTS = 20
_STUDIES = ("digits", "digits, Adam")
_SIGN, _UPDATE = ", one layer changes signs", ", one layer moves"
_MODES = {"sign": _SIGN, "update": _UPDATE}
_ADAM = ", Adam"
_ADAM_SETTINGS: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.01}
"""Adam moves every weight by about its learning rate, so that many more of them come across zero than with SGD."""


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """The standard net of each base, and the same with one layer per step, by both meanings; with digits also Adam."""
    shared = [base(budget, name) for name in budget.bases]
    return tuple(
        config.replace(net=config.net + suffix, one_layer_per_step=mode)
        for config in (*shared, _with_adam(budget))
        for mode, suffix in ((None, ""), *_MODES.items())
    )


def _with_adam(budget: ClaimBudget, **changes: Any) -> RunConfig:
    return base(budget, net=net_name("none") + _ADAM, **_ADAM_SETTINGS, **changes)


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """One step in three ways, along the standard trainings of the digits net by SGD and by Adam, in float64."""
    plain: dict[str, Any] = {"instruments": {}, "options": {}, "evaluate_every": 0, "dtype": "float64"}
    configs = {"digits": base(budget, **plain), "digits" + _ADAM: _with_adam(budget, **plain)}
    function = "ics.claims.studies.held_back_steps:steps_held_back"
    return tuple(
        Study(
            name=name,
            function=function,
            settings={"config": changed(config), "every": max(config.steps // _NUM_MEASUREMENTS, 1)},
        )
        for name, config in configs.items()
    )


def _compared(budget: ClaimBudget) -> dict[str, str]:
    """Setting to the net that trains as ever."""
    return {name: net_name("none", name) for name in budget.bases} | {"digits" + _ADAM: net_name("none") + _ADAM}


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Interaction within a step, then the disturbance between layers in trainings and the losses they reach."""
    effects = [effect for name in _STUDIES for effect in _of_one_step(found.study(name), name)]
    shift, error, loss = _shift(found), _taylor_error(found), final_loss(found)
    told = {
        "shift_relative": (shift, "||G - G'|| / ||G||, median over layers after the first, then over steps"),
        "taylor_error": (error, "Taylor error of the update at about the learning rate, median over steps"),
        "final_loss": (loss, "mean training loss over the last tenth"),
    }
    for name, standard in _compared(found.budget).items():
        for measure, (numbers, meaning) in told.items():
            if standard not in numbers.index:  # the lines of large nets are along the gradient alone
                continue
            words = {"meaning": meaning, "setting": name}
            effects += [
                ratio(numbers, standard + _SIGN, standard, measure=measure, **words),
                ratio(numbers, standard + _UPDATE, standard, measure=f"{measure}_one_layer_moves", **words),
            ]
    return (*effects, *_sign_changes(found))


def _of_one_step(rows: pd.DataFrame, setting: str) -> list[Effect]:
    told = "|change of the loss by all layers - sum of those by each alone| / |g.d|, same weights, median over steps"
    together = per_seed(rows, "interaction")
    lengths, signs = per_seed(rows, "length"), per_seed(rows, "sign_changes", by=(), reduce="mean")
    return [
        ratio(together, HELD, WHOLE, measure="interaction", meaning=told, setting=setting),
        ratio(together, HELD, SHORTER, measure="interaction_at_equal_length", meaning=told, setting=setting),
        value(together, WHOLE, measure="interaction_whole", meaning=told, unit="1", setting=setting),
        ratio(lengths, HELD, WHOLE, measure="length", meaning="||d||, median over steps", setting=setting),
        value(signs, WHOLE, measure="sign_changes_whole", meaning="weights per step", setting=setting),
        value(signs, HELD, measure="sign_changes_held", meaning="weights per step", setting=setting),
    ]


def _shift(found: Evidence) -> pd.Series:
    columns = ("step", "layer", "layer_index", "shift_relative")
    rows = found.table("gradient_shift", columns=columns, where={"parameters": "weight"})
    after = after_first_layer(rows)
    return per_seed(after, "shift_relative")


def _taylor_error(found: Evidence) -> pd.Series:
    rows = found.table("gradient_line", columns=TAYLOR_COLUMNS, where={"direction": "update", "layer": "(all)"})
    return per_seed(at_learning_rate(rows), "error")


def _sign_changes(found: Evidence) -> list[Effect]:
    """Of all sign changes that the optimizer proposed, those that were made."""
    limited = [standard + _SIGN for standard in _compared(found.budget).values()]
    columns = ("step", "sign_changes_proposed", "sign_changes_made")
    rows = found.table("steps", columns=columns, where={"net": limited})
    sums = rows.groupby(["net", "seed"])[["sign_changes_made", "sign_changes_proposed"]].sum()
    shares = sums["sign_changes_made"] / sums["sign_changes_proposed"]
    told = "sign changes that were made, as a share of those proposed, all steps"
    return [value(shares, net, measure="share_of_sign_changes", meaning=told, unit="1", setting=net) for net in limited]


_WHY = "a tenth less is the smallest effect that counts"

C23 = Claim(
    id="C23",
    nets=nets,
    studies=studies,
    evidence=evidence,
    rule=(
        below("interaction", 0.9, why=_WHY),
        below("interaction_at_equal_length", 0.9, why=_WHY + ", beyond what a shorter step has less anyway"),
        below("shift_relative", 0.9, why=_WHY),
        below("taylor_error", 0.9, why=_WHY),
    ),
    published="No measurement is known to us.",
    remark="The layer in which most weights are about to change sign may change them; in the others those weights keep "
    "their value for this step, and all other weights move. Where steps carry few weights across zero little is held "
    "back: their number and share are shown, and Adam is there because it carries more across than SGD. Moving one "
    "layer alone, shown beside it, has no interaction within a step by construction, has a shift only in the layers "
    "after the one that moves, and takes as many times the steps as there are layers.",
)
