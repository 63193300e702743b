"""C12: does BatchNorm keep sigmoids out of saturation, and does a deep sigmoid net need it to train?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ics.claims.measures.training import final_loss
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, difference, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, below
from ics.experiments.training.config import RunConfig

_NORMS = ("none", "batch")
_DEPTH = 8
_TRAININGS: Mapping[str, Mapping[str, Any]] = {
    "SGD 0.1": {},
    "SGD 1": {"learning_rate": 1.0},
    "Adam 0.01": {"optimizer": "adam", "learning_rate": 0.01},
}
"""Ways to train the deep net: one that fails may be a matter of the optimizer, and not of the net."""

_SHALLOW, _DEEP, _IMAGES = "4 layers, SGD 0.1", f"{_DEPTH} layers", "images, sigmoid"


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """Sigmoid nets of 4 and of 8 hidden layers, the deep one trained in three ways, and a convolutional one."""
    shallow = [base(budget, "sigmoid", norm=norm) for norm in _NORMS]
    deep = [
        shallow[number].replace(
            net=_net(norm, f"{_DEEP}, {training}"), hidden=(48,) * _DEPTH, **_few(shallow[0].steps), **changes
        )
        for training, changes in _TRAININGS.items()
        for number, norm in enumerate(_NORMS)
    ]
    sigmoid = {"activation": "sigmoid", "init": "glorot"}
    images = [
        base(budget, "images", norm=norm, net=_net(norm, _IMAGES), **sigmoid, **_few(budget.image_steps))
        for norm in _NORMS
        if "images" in budget.bases
    ]
    return (*shallow, *deep, *images)


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Saturation with and without BatchNorm under every training, and the accuracy of the best training of each."""
    columns = ("step", "layer_index", "mean", "m2", "saturated_fraction")
    layers = worst_layers(found.table("activations", columns=columns, where={"site": "activation"}))
    saturated, slope = per_seed(layers, "saturated_fraction"), per_seed(layers, "slope")
    effects: list[Effect] = []
    for setting, plain, normed in _settings(found.budget):
        told = "fraction of activations within 1 % of an end, in the hidden layer with most, median over steps"
        words = {"meaning": told, "setting": setting, "unit": "1"}
        effects.append(difference(saturated, plain, normed, measure="saturation_avoided", **words))
        told = "mean slope 4 s (1 - s) of the sigmoids, in the hidden layer with the least, median over steps"
        effects.append(ratio(slope, normed, plain, measure="slope", meaning=told, setting=setting))
        effects += [
            value(slope, net, measure="slope_itself", meaning=told, unit="1", setting=net) for net in (plain, normed)
        ]
    accuracy = final_loss(found, column="train_accuracy")
    for setting, trainings in _depths(found.budget).items():
        for norm, measure in zip(_NORMS, ("accuracy_without", "accuracy_with"), strict=True):
            best = best_of(accuracy, [_net(norm, training) for training in trainings])
            told = f"accuracy on training examples at the end, the best of {len(trainings)} trainings"
            effects.append(value(best, "best", measure=measure, meaning=told, unit="1", setting=setting))
    return tuple(effects)


def worst_layers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the largest `saturated_fraction` and the smallest mean `slope` over the layers of a step.

    The slope of a sigmoid s is s' = s (1 - s), at most 1/4. Its mean over a tensor, as a part of that, is
    4 (E[s] - E[s^2]) = 4 (mean (1 - mean) - m2): 1 where all units are in the middle, 0 where all are at an end.

    Args:
        rows: of the table activations, site activation: `step`, `mean`, `m2`, `saturated_fraction`.
    """
    slopes = rows.assign(slope=4 * (rows["mean"] * (1 - rows["mean"]) - rows["m2"]))
    steps = slopes.groupby(["net", "seed", "step"])
    return steps.agg(saturated_fraction=("saturated_fraction", "max"), slope=("slope", "min")).reset_index()


def best_of(numbers: pd.Series, nets: list[str]) -> pd.Series:
    """Return the largest number over some nets, by seed, under the net "best"."""
    chosen = numbers[numbers.index.get_level_values("net").isin(nets)]
    best = chosen.groupby("seed").max()
    best.index = pd.MultiIndex.from_product([["best"], best.index], names=["net", "seed"])
    return best


def _settings(budget: ClaimBudget) -> list[tuple[str, str, str]]:
    """What is compared: its name, the standard and the BatchNorm net."""
    deep = [training for trainings in _depths(budget).values() for training in trainings]
    shallow = (_SHALLOW, net_name("none", "sigmoid"), net_name("batch", "sigmoid"))
    return [shallow, *((training, _net("none", training), _net("batch", training)) for training in deep)]


def _depths(budget: ClaimBudget) -> dict[str, list[str]]:
    """The deep nets, and the names of their trainings."""
    deep = {_DEEP: [f"{_DEEP}, {training}" for training in _TRAININGS]}
    return deep | ({_IMAGES: [_IMAGES]} if "images" in budget.bases else {})


def _net(norm: str, training: str) -> str:
    return f"{net_name(norm)}, {training}"


def _few(steps: int) -> dict[str, Any]:
    return {"instruments": {"activations": f"every({max(steps // 10, 1)})"}, "options": {}}


_CHANCE = "twice what guessing one of ten classes gets"

C12 = Claim(
    id="C12",
    nets=nets,
    evidence=evidence,
    rule=(
        above("saturation_avoided", 0.05, why="a twentieth of the activations is the least that counts"),
        above("slope", 1.1, why="a tenth more is the smallest difference that counts"),
        above("accuracy_with", 0.2, why=_CHANCE),
        below("accuracy_without", 0.2, why=_CHANCE),
    ),
    published="Inception with sigmoids on ImageNet: 69.8 % accuracy with BatchNorm; without it never better than "
    "chance, 1/1000 (Ioffe & Szegedy 2015, sec. 4.2.2).",
    remark="Two sentences in one. Saturation avoided can only be as large as the saturation of the standard net: "
    "where neither net saturates BatchNorm keeps nothing out, and that counts against the sentence. "
    "slope_itself tells where units are: 1 is the middle of the sigmoid, 0 an end, 0.83 values drawn from N(0, 1), "
    f"which BatchNorm has before gamma and beta move. The deep nets have {_DEPTH} hidden layers of 48 units and "
    "Glorot's initial weights; accuracies are those of the best of three trainings, whichever that is for a seed. "
    "Not trainable means: not within the steps of the budget. Inception is deeper, and ImageNet has a hundred times as "
    "many classes.",
)
