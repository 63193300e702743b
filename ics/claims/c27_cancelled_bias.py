"""C27: does the bias in front of BatchNorm have gradient zero, and does removing it change nothing? Two equalities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from ics.analysis import before_last_layer
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import equals
from ics.claims.method.runs import changed
from ics.claims.method.study import Study
from ics.experiments.data.examples import Batch
from ics.experiments.nets.layers import NetLayer, hidden_layers, layers_in_order
from ics.experiments.training.config import RunConfig
from ics.experiments.training.evaluation import evaluate
from ics.experiments.training.experiment import Experiment, prepare

_STUDY = "twins"
_NORMS = ("batch", "none")
_STEPS = {"quick": 200, "cpu": 400, "paper": 400}
_EARLY, _NUM_MEASUREMENTS = 10, 20


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """The BatchNorm net of each base, as everybody trains it, in float32."""
    return tuple(base(budget, name, norm="batch") for name in budget.bases)


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """Twins of the digits net in float64, one without biases, with BatchNorm and, to see the difference, without."""
    plain: dict[str, Any] = {
        "instruments": {},
        "options": {},
        "evaluate_every": 0,
        "dtype": "float64",
        "steps": _STEPS[budget.name],
    }
    configs = [{"net": net_name(norm), **changed(base(budget, norm=norm, **plain))} for norm in _NORMS]
    settings = {"configs": configs, "num_measurements": _NUM_MEASUREMENTS, "early": _EARLY}
    return (Study(name=_STUDY, function=f"{__name__}:twins", settings=settings),)


def twins(*, seed: int, configs: list[Mapping[str, Any]], num_measurements: int, early: int) -> pd.DataFrame:
    """Train each net with and without biases in its hidden layers: same other weights, same batches, plain SGD.

    Args:
        seed: of the weights and the batches.
        configs: the nets with biases, as `RunConfig.from_dict` takes them.
        num_measurements: how often both are evaluated on the test set, evenly spread, the last step included.
        early: one more such step, while running averages are still those of the start.

    Returns:
        A row per net and step t, of both nets before the step is made: `net`, `step`, `loss` with biases,
        `loss_change` = |loss without - loss with| / loss with, `bias_gradient`, the largest ||dL/db|| / ||dL/dW|| of
        a hidden layer, and `test_loss_change`, as loss_change on the test set in eval mode, null where
        it was not evaluated.
    """
    frames = [_twins(RunConfig.from_dict({**config, "seed": seed}), num_measurements, early) for config in configs]
    return pd.concat(frames, ignore_index=True)


def _twins(config: RunConfig, num_measurements: int, early: int) -> pd.DataFrame:
    with_bias, without = prepare(config), prepare(config.replace(bias=False))
    _give_weights(with_bias, without)
    layers = _hidden(with_bias)
    every, rows = max(config.steps // num_measurements, 1), []
    for step, batch in enumerate(with_bias.batches()):
        is_look = step % every == 0 or step in (early, config.steps - 1)
        tested = [_test_loss(one) if is_look else math.nan for one in (with_bias, without)]
        losses = [_step(one, batch) for one in (with_bias, without)]
        row = {"loss": losses[0], "loss_change": _relative(*losses), "test_loss_change": _relative(*tested)}
        rows.append({"net": config.net, "step": step} | row | {"bias_gradient": _bias_gradient(layers)})
    return pd.DataFrame(rows)


def _give_weights(of: Experiment, to: Experiment) -> None:
    values = dict(of.model.named_parameters())
    with torch.no_grad():
        for name, parameter in to.model.named_parameters():
            parameter.copy_(values[name])


def _hidden(experiment: Experiment) -> tuple[NetLayer, ...]:
    inputs = next(experiment.batches())[0][:2]
    return hidden_layers(layers_in_order(experiment.model, inputs), needed_for="removing biases")


def _step(experiment: Experiment, batch: Batch) -> float:
    experiment.optimizer.zero_grad()
    loss = experiment.loss_fn(experiment.model, batch)
    loss.backward()
    experiment.optimizer.step()
    return float(loss.detach())


def _test_loss(experiment: Experiment) -> float:
    config = experiment.config
    found = evaluate(experiment.model, experiment.data, loss=config.loss, batch_size=config.batch_size)
    return float(found["test_loss"])


def _relative(first: float, second: float) -> float:
    return abs(second - first) / abs(first)


def _bias_gradient(layers: tuple[NetLayer, ...]) -> float:
    """The gradients that the step just made has used."""
    return max(_norm(layer, "bias") / _norm(layer, "weight") for layer in layers)


def _norm(layer: NetLayer, name: str) -> float:
    gradient = layer.parameters[f"{layer.name}.{name}"].grad
    assert gradient is not None, "every hidden layer takes part in the loss"
    return float(gradient.norm())


_MEANINGS = {
    "bias_gradient": "||dL/db|| / ||dL/dW||, largest over hidden layers and steps, float64",
    "loss_change": "relative change of the training loss by leaving the biases out, largest over steps, float64",
}


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Both equalities with BatchNorm; without it, and on the test set, the same numbers beside them."""
    rows, batch = found.study(_STUDY), net_name("batch")
    effects: list[Effect] = []
    for measure, meaning in _MEANINGS.items():
        largest = per_seed(rows, measure, by=(), reduce="max")
        effects.append(value(largest, batch, measure=measure, meaning=meaning, unit="1"))
        standard = net_name("none")
        effects.append(value(largest, standard, measure=f"{measure}_without_BatchNorm", meaning=meaning, unit="1"))
    effects += _on_the_test_set(rows, batch)
    gradients = recorded_gradients(found)
    return (
        *effects,
        *(
            value(
                gradients,
                net_name("batch", name),
                measure="recorded_bias_gradient",
                meaning="||dL/db|| / ||dL/dW||, largest over hidden layers and steps, float32, recorded",
                unit="1",
                setting=name,
            )
            for name in found.budget.bases
        ),
    )


def _on_the_test_set(rows: pd.DataFrame, net: str) -> list[Effect]:
    told = "relative change of the test loss by leaving the biases out, eval mode, "
    evaluated = rows[rows["test_loss_change"].notna()]
    largest = per_seed(evaluated, "test_loss_change", by=(), reduce="max")
    last = per_seed(evaluated.sort_values("step"), "test_loss_change", by=(), reduce="last")
    return [
        value(largest, net, measure="test_loss_change_largest", meaning=f"{told}largest over steps", unit="1"),
        value(last, net, measure="test_loss_change_last", meaning=f"{told}at the last step", unit="1"),
    ]


def recorded_gradients(found: Evidence) -> pd.Series:
    """Return the largest ||dL/db|| / ||dL/dW|| of a hidden layer and a measured step, by net and seed."""
    columns = ("step", "layer", "layer_index", "of", "gradient_norm")
    rows = found.table("gradients", columns=columns, where={"kind": "parameter"})
    hidden = before_last_layer(rows)
    place = ["net", "seed", "step", "layer"]
    norms = {
        name: hidden[hidden["of"] == hidden["layer"] + f".{name}"].set_index(place)["gradient_norm"]
        for name in ("bias", "weight")
    }
    ratios = (norms["bias"] / norms["weight"]).replace(np.nan, np.inf)
    largest: pd.Series = ratios.groupby(["net", "seed"]).max()
    return largest


_EXACT = "an equality of arithmetic, up to rounding in float64"

C27 = Claim(
    id="C27",
    nets=nets,
    studies=studies,
    evidence=evidence,
    rule=(
        equals("bias_gradient", 0.0, tolerance=1e-9, why=_EXACT),
        equals("loss_change", 0.0, tolerance=1e-9, why=_EXACT + ", which a short training does not blow up"),
        equals("recorded_bias_gradient", 0.0, tolerance=1e-3, why="rounding in float32; one not cancelled is near 1"),
    ),
    published="The bias can be ignored, since its effect is cancelled by the subtraction of the mean; its role is "
    "taken by beta (Ioffe & Szegedy 2015, sec. 3.2).",
    remark="Equalities of training, with the batch's statistics. In eval mode a trace of b is left: running means "
    "start at 0, so that after t steps 0.9^t b is not subtracted, which the test loss shows at first; it vanishes. "
    "Without BatchNorm the same numbers are far from 0, so the experiment can tell. SGD without weight decay: an "
    "optimizer that divides by the size of gradients makes steps of rounding errors.",
)
