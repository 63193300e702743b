"""C11: do weights in front of BatchNorm stay near the size they started with, layer by layer and one by one?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from ics.analysis import before_last_layer
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import below
from ics.claims.method.runs import changed
from ics.claims.method.study import Study
from ics.experiments.nets.layers import AFFINE
from ics.experiments.training.config import RunConfig
from ics.experiments.training.experiment import prepare
from ics.experiments.training.losses import total

_NORMS = ("none", "batch")
_NUM_MEASUREMENTS = 20
_STUDY = "weights"
_VARIANTS: Mapping[str, Mapping[str, Callable[[RunConfig], float]]] = {
    "": {},
    ", weight decay 0.01": {"weight_decay": lambda config: 0.01},
    ", 10 x learning rate": {"learning_rate": lambda config: 10 * config.learning_rate},
}
"""What is added to the name of a base net, and the settings that are changed."""


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """The standard and the BatchNorm net of each base; of the first also with weight decay, and with 10 x the rate."""
    shared = [base(budget, name, norm=norm) for name in budget.bases for norm in _NORMS]
    return (*shared, *_varied(budget, budget.bases[0]))


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """The digits nets once more, measured weight by weight."""
    plain = [base(budget, norm=norm) for norm in _NORMS]
    silent = {"instruments": {}, "options": {}, "evaluate_every": 0, "device": "cpu"}
    configs = [config.replace(**silent) for config in (*plain, *_varied(budget, "digits"))]
    settings = {
        "configs": [{"net": config.net, **changed(config)} for config in configs],
        "num_measurements": _NUM_MEASUREMENTS,
    }
    return (Study(name=_STUDY, function=f"{__name__}:followed", settings=settings),)


def followed(*, seed: int, configs: Sequence[Mapping[str, Any]], num_measurements: int) -> pd.DataFrame:
    """Train nets without a recorder and look at each hidden weight matrix W, of rows w_i and gradient G, rows g_i.

    Returns:
        A row per net, step and layer, about `num_measurements` steps and the last one, W and G before the step is made:
        `net`, `step`, `layer`,
        `radial_share`: sqrt(sum_i <w_i / ||w_i||, g_i>^2) / ||G||, the part of the gradient that would make units'
        weights longer or shorter. 0 where the loss depends on directions alone; 1 / sqrt(fan-in) for random directions;
        `largest_unit_change`: max_i |ln(||w_i|| / ||w_i(0)||)|, growth and shrinking alike;
        `heaviest`: max |W_ij| / root mean square of W.

    Cost: the trainings, and at each measurement a few reads of the weights.
    """
    trained = [RunConfig.from_dict({**settings, "seed": seed}) for settings in configs]
    return pd.concat([_followed(config, num_measurements) for config in trained], ignore_index=True)


def _followed(config: RunConfig, num_measurements: int) -> pd.DataFrame:
    experiment = prepare(config)
    hidden = {name: module for name, module in experiment.model.named_modules() if isinstance(module, AFFINE)}
    hidden.popitem()  # the output layer: no normalisation follows it
    start = {name: _rows(module.weight).norm(dim=1) for name, module in hidden.items()}
    every, rows = max(config.steps // num_measurements, 1), []
    for step, batch in enumerate(experiment.batches()):
        experiment.optimizer.zero_grad()
        total(experiment.loss_terms(batch)).backward()
        if step % every == 0 or step == config.steps - 1:
            for name, module in hidden.items():
                rows.append({"net": config.net, "step": step, "layer": name, **weight_measures(module, start[name])})
        experiment.optimizer.step()
    return pd.DataFrame(rows)


def weight_measures(module: nn.Module, start: Tensor) -> dict[str, float]:
    """Return the measures of `followed` of a module that has a gradient; `start` is ||w_i(0)|| in float64."""
    parameter = module.get_parameter("weight")
    assert parameter.grad is not None, "looked at between the backward pass and the step"
    weights, gradients = _rows(parameter), _rows(parameter.grad)
    norms = weights.norm(dim=1)
    radial = (weights * gradients).sum(dim=1) / norms
    return {
        "radial_share": float(radial.norm() / gradients.norm()),
        "largest_unit_change": float((norms / start).log().abs().max()),
        "heaviest": float(weights.abs().max() / weights.square().mean().sqrt()),
    }


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Ratios BatchNorm / standard of how much weights change in size, and what that makes of the learning rate."""
    return (*_of_layers(found), *_of_units(found))


def _of_layers(found: Evidence) -> list[Effect]:
    columns = ("step", "layer", "layer_index", "of", "parameter_norm")
    changes = norm_changes(found.table("gradients", columns=columns, where={"kind": "parameter"}))
    size, growth, rate = (per_seed(changes, name, by=()) for name in ("size", "growth", "rate"))
    ends = "||W|| at the last look / at the first, median over hidden layers"
    effects = []
    for setting, plain, normed in _settings(found.budget):
        told = "|ln(||W|| at the last look / at the first)|, median over hidden layers"
        effects.append(ratio(size, normed, plain, measure="norm_change", meaning=told, setting=setting))
        effects += [
            value(growth, net, measure="norm_growth", meaning=ends, unit="1", setting=net) for net in (plain, normed)
        ]
        told = "effective learning rate lr / ||W||^2 at the last look / at the first, median over hidden layers"
        effects.append(value(rate, normed, measure="effective_rate", meaning=told, unit="1", setting=setting))
    return effects


def _of_units(found: Evidence) -> list[Effect]:
    rows = found.study(_STUDY)
    radial = per_seed(rows, "radial_share")
    plain, normed = (net_name(norm) for norm in _NORMS)
    told = "part of the gradient that lengthens or shortens units' weights, median over hidden layers, then over steps"
    effects = [ratio(radial, normed, plain, measure="radial_share", meaning=told, setting="digits")]
    effects += [
        value(radial, net, measure="radial_share_itself", meaning=told, unit="1", setting=net)
        for net in (plain, normed)
    ]
    # NaN at the end is a net that diverged, and a median would leave it out.
    ends = rows[rows["step"] == rows.groupby(["net", "seed"])["step"].transform("max")].fillna(np.inf)
    starts = rows[rows["step"] == 0]
    extreme = per_seed(ends, "largest_unit_change", by=(), reduce="max")
    heaviest = per_seed(ends, "heaviest", by=()) / per_seed(starts, "heaviest", by=())
    for suffix in _VARIANTS:
        plain, normed = (net_name(norm) + suffix for norm in _NORMS)
        told = "largest |ln(||w|| at the end / at the start)| of a hidden unit"
        effects.append(ratio(extreme, normed, plain, measure="unit_change", meaning=told, setting=f"digits{suffix}"))
        told = "largest |weight| / root mean square, at the end / at the start, median over hidden layers"
        effects.append(
            ratio(heaviest, normed, plain, measure="heaviest_weight", meaning=told, setting=f"digits{suffix}")
        )
    return effects


def norm_changes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `growth` ||W_last|| / ||W_first||, `size` |ln growth| and `rate` growth^-2 by net, seed and hidden layer.

    Args:
        rows: of the table gradients, kind parameter: `step`, `layer`, `layer_index`, `of`, `parameter_norm`.

    Weights that are not finite at the last measurement have grown without bound.
    """
    own = rows[rows["of"] == rows["layer"] + ".weight"].sort_values("step")
    own = before_last_layer(own, by=["net", "seed"])
    # Not "first" and "last" of a group: they pass over NaN.
    ends = own.groupby(["net", "seed", "layer"])["parameter_norm"].agg(lambda norms: _growth(norms.to_numpy(float)))
    found = ends.rename("growth").reset_index()
    return found.assign(size=np.log(found["growth"]).abs(), rate=found["growth"] ** -2)


def _growth(norms: np.ndarray) -> float:
    return float(norms[-1] / norms[0]) if np.isfinite(norms[-1]) else float("inf")


def _rows(weights: Tensor) -> Tensor:
    """The weights of each unit, as a row in float64."""
    return weights.detach().flatten(1).double()


def _varied(budget: ClaimBudget, name: str) -> tuple[RunConfig, ...]:
    """A base net under each variant that is not the base net itself."""
    plain = [base(budget, name, norm=norm) for norm in _NORMS]
    few = {"instruments": {"gradients": f"every({max(plain[0].steps // 10, 1)})"}, "options": {}}
    return tuple(
        config.replace(net=config.net + suffix, **few, **{key: change(config) for key, change in changes.items()})
        for suffix, changes in _VARIANTS.items()
        for config in plain
        if changes
    )


def _settings(budget: ClaimBudget) -> list[tuple[str, str, str]]:
    """What is compared: its name, the standard and the BatchNorm net."""
    first, *others = budget.bases
    places = [(first, suffix) for suffix in _VARIANTS] + [(name, "") for name in others]
    return [
        (name + suffix, net_name("none", name) + suffix, net_name("batch", name) + suffix) for name, suffix in places
    ]


_WHY = "a tenth less is the smallest difference that counts"

C11 = Claim(
    id="C11",
    nets=nets,
    studies=studies,
    evidence=evidence,
    rule=(
        below("radial_share", 0.1, why="no incentive is another order of magnitude, not a little less"),
        below("norm_change", 0.9, why=_WHY),
        below("unit_change", 0.9, why=_WHY),
        below("heaviest_weight", 0.9, why=_WHY),
    ),
    published="A k times larger weight gives the same output and a k times smaller gradient, so that BatchNorm "
    '"will stabilize the parameter growth" (Ioffe & Szegedy 2015, sec. 3.3, no measurement). Weights in front of it '
    "have a gradient orthogonal to them; only weight decay holds their size, and the effective learning rate is "
    "lr / ||w||^2 (van Laarhoven 2017).",
    remark="An incentive and its outcome are measured apart. Along the gradient the loss may not care how long the "
    "weights of a unit are, and yet a step at a right angle to them makes them longer, by lr^2 ||g||^2 / (2 ||w||). "
    "Nets are compared after equally many steps, not at an equal loss, and no training here is so long that decay and "
    "growth come to balance.",
)
