"""C15: what error does a step make by moving all layers at once, that moving one layer at a time does not make?

For each layer, the gradient tells what its step would do to the loss if nothing else moved. The study trains a net. At
some steps it makes the next training step in three ways: all layers at once, each layer alone from the present weights,
and the layers in turn, each with its gradient at the time of its turn.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above
from ics.claims.method.runs import changed
from ics.claims.method.study import Study
from ics.experiments.data.examples import Batch
from ics.experiments.nets.layers import layers_in_order
from ics.experiments.training.config import RunConfig
from ics.experiments.training.experiment import prepare
from ics.experiments.training.losses import LossFunction
from ics.experiments.training.machine import cpu_threads

_NORMS = ("none", "batch")
_NUM_MEASUREMENTS = 20
_TOGETHER, _ALONE, _IN_TURN = "all layers at once", "each layer alone", "layers in turn"
_WAYS = {_TOGETHER: "error_together", _ALONE: "error_alone", _IN_TURN: "error_in_turn"}
_ERROR = "error of the first-order prediction of a step, median over steps"
_INTERACTION = (
    "|change of the loss by all layers at once - sum of the changes by each alone| / promised change, median over steps"
)


def moving(*, seed: int, config: dict[str, Any], every: int) -> pd.DataFrame:
    """Train a net by plain SGD and return what moving its layers together or apart does, at every `every`-th step.

    Args:
        seed: of weights and batches.
        config: settings of a `RunConfig` that are not their defaults; its instruments are not used.
        every: steps between two measurements, the first at step 0.

    Returns:
        A row per measurement: `net`, `step` and the columns of `three_ways`.

    Cost: the training, and per measurement about three passes per layer on the batch of the step.
    """
    experiment = prepare(RunConfig.from_dict(config).replace(seed=seed))
    settings, optimizer, rows = experiment.config, experiment.optimizer, []
    with cpu_threads(settings.num_threads):
        for step, batch in enumerate(experiment.batches()):
            if step % every == 0:
                found = three_ways(experiment.model, experiment.loss_fn, batch, learning_rate=settings.learning_rate)
                rows.append({"net": settings.net, "step": step} | found)
            optimizer.zero_grad()
            experiment.loss_fn(experiment.model, batch).backward()
            optimizer.step()
    return pd.DataFrame(rows)


def three_ways(model: nn.Module, loss_fn: LossFunction, batch: Batch, *, learning_rate: float) -> dict[str, float]:
    """Return what the step -lr g of all layers does to the loss of a batch, made in three ways from the same point.

    With L_j the loss after layer j alone has moved and P_j = -lr ||g_j||^2 what the gradient promises for it:

    - `promised`: sum_j P_j
    - `together`: L(all moved) - L; `error_together`: |together - promised| / |promised|
    - `alone`: sum_j (L_j - L); `error_alone`: sum_j |L_j - L - P_j| / |promised|
    - `error_in_turn`: the same with layer after layer staying moved, j by its gradient after those before it moved:
      sum_j |L_j - L_{j-1} - P_j| / |sum_j P_j|
    - `interaction`: |together - alone| / |promised|

    A layer is a module with weights and the normalisation behind it. A copy of the model is moved; losses are those of
    training (normalisations use the batch). Where the gradient is zero errors are undefined: NaN.
    """
    twin = copy.deepcopy(model)
    layers = [list(layer.parameters.values()) for layer in layers_in_order(twin, batch[0])]
    start, gradients = _loss_and_gradients(twin, loss_fn, batch, layers)
    promises = [_promise(gradient, learning_rate) for gradient in gradients]
    alone = [
        _after(twin, loss_fn, batch, [layer], [gradient], learning_rate)
        for layer, gradient in zip(layers, gradients, strict=True)
    ]
    together = _after(twin, loss_fn, batch, layers, gradients, learning_rate) - start
    promised = sum(promises)
    errors_alone = [abs(loss - start - promise) for loss, promise in zip(alone, promises, strict=True)]
    summed = sum(loss - start for loss in alone)
    return {
        "loss": start,
        "promised": promised,
        "together": together,
        "alone": summed,
        "error_together": _relative(together - promised, promised),
        "error_alone": _relative(sum(errors_alone), promised),
        "error_in_turn": _error_in_turn(twin, loss_fn, batch, layers, learning_rate),
        "interaction": _relative(together - summed, promised),
    }


def _error_in_turn(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Batch,
    layers: Sequence[Sequence[Tensor]],
    learning_rate: float,
) -> float:
    """Move layer after layer, from the first to the last, and leave the model so."""
    error = promised = 0.0
    before, _ = _loss_and_gradients(model, loss_fn, batch, [])
    for layer in layers:
        _, (gradient,) = _loss_and_gradients(model, loss_fn, batch, [layer])
        promise = _promise(gradient, learning_rate)
        _move(layer, gradient, learning_rate)
        after, _ = _loss_and_gradients(model, loss_fn, batch, [])
        error, promised, before = error + abs(after - before - promise), promised + promise, after
    return _relative(error, promised)


def _after(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Batch,
    layers: Sequence[Sequence[Tensor]],
    gradients: Sequence[Sequence[Tensor]],
    learning_rate: float,
) -> float:
    """Return the loss with some layers moved, and put them back, bit for bit."""
    kept = [[parameter.detach().clone() for parameter in layer] for layer in layers]
    for layer, gradient in zip(layers, gradients, strict=True):
        _move(layer, gradient, learning_rate)
    loss, _ = _loss_and_gradients(model, loss_fn, batch, [])
    with torch.no_grad():
        for layer, values in zip(layers, kept, strict=True):
            for parameter, old in zip(layer, values, strict=True):
                parameter.copy_(old)
    return loss


def _loss_and_gradients(
    model: nn.Module, loss_fn: LossFunction, batch: Batch, layers: Sequence[Sequence[Tensor]]
) -> tuple[float, list[list[Tensor]]]:
    wanted = [parameter for layer in layers for parameter in layer]
    with torch.set_grad_enabled(bool(wanted)):
        loss = loss_fn(model, batch)
    found = iter(torch.autograd.grad(loss, wanted) if wanted else ())
    return float(loss.detach().double()), [[next(found) for _ in layer] for layer in layers]


def _move(layer: Sequence[Tensor], gradient: Sequence[Tensor], learning_rate: float) -> None:
    with torch.no_grad():
        for parameter, slope in zip(layer, gradient, strict=True):
            parameter.sub_(learning_rate * slope)


def _promise(gradient: Sequence[Tensor], learning_rate: float) -> float:
    return -learning_rate * sum(float(slope.double().square().sum()) for slope in gradient)


def _relative(number: float, promised: float) -> float:
    return abs(number) / abs(promised) if promised else float("nan")


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """A training per norm; digits in float64, because small differences of losses would drown in rounding."""
    found = []
    for name in _bases(budget):
        for norm in _NORMS:
            config = base(budget, name, norm=norm, instruments={}, options={}, evaluate_every=0)
            config = config.replace(dtype="float64") if name == "digits" else config
            own = changed(config) | {"net": config.net, "data": config.data}
            settings = {"config": own, "every": max(config.steps // _NUM_MEASUREMENTS, 1)}
            found.append(Study(name=config.net, function=f"{__name__}:moving", settings=settings))
    return tuple(found)


def _bases(budget: ClaimBudget) -> tuple[str, ...]:
    """Return digits if the budget has them: the path to images depends on the machine and is no setting of a study."""
    return ("digits",) if "digits" in budget.bases else budget.bases


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """For each net, the errors of the ways against each other, and what layers do only together."""
    effects: list[Effect] = []
    for net in (net_name(norm, name) for name in _bases(found.budget) for norm in _NORMS):
        rows = found.study(net)
        ways = pd.concat([per_seed(_worst(rows, column).assign(net=way), column) for way, column in _WAYS.items()])
        interaction = per_seed(_worst(rows, "interaction"), "interaction")
        together = per_seed(_worst(rows, "error_together"), "error_together")
        last = per_seed(rows.sort_values("step"), "loss", by=(), reduce="last")
        effects += [
            ratio(ways, _TOGETHER, _ALONE, measure="together_over_alone", meaning=_ERROR, setting=net),
            ratio(ways, _TOGETHER, _IN_TURN, measure="together_over_in_turn", meaning=_ERROR, setting=net),
            value(interaction, net, measure="interaction", meaning=_INTERACTION, unit="1", setting=net),
            value(together, net, measure="error_together", meaning=f"{_ERROR}, {_TOGETHER}", unit="1", setting=net),
            value(last, net, measure="last_loss", meaning="training loss at the last look", setting=net),
        ]
    return tuple(effects)


def _worst(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Make errors infinite where a loss is not finite, but leave those null whose gradient is exactly zero."""
    defined = rows[column].notna() | (rows["promised"] == 0)
    return rows.assign(**{column: rows[column].where(defined, float("inf"))})


_WHY = "a tenth more is the smallest effect that counts"

C15 = Claim(
    id="C15",
    studies=studies,
    evidence=evidence,
    rule=(
        above("together_over_alone", 1.1, why=_WHY),
        above("together_over_in_turn", 1.1, why=_WHY),
        above("interaction", 0.1, why="less than a tenth of what is promised would hardly matter to training"),
    ),
    published="Argued, not measured: the update of each parameter is computed under the assumption that the others do "
    "not change, and in practice all are updated simultaneously (Goodfellow et al. 2016, sec. 8.7.1).",
    remark="Steps are those of plain SGD at the learning rate that the nets are trained with, and errors grow with it: "
    "the ratios say whether moving together makes the error, the interaction whether it matters at this rate. A net "
    "that has hardly begun to learn (last_loss) takes short steps, which are easy to predict. Each layer alone counts "
    "the sizes of its errors, which cannot cancel. Training one layer at a time would reach other weights than those "
    "looked at here. The smaller budgets look at the digits nets only.",
)
