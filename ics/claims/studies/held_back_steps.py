"""The step that training is about to make, whole and held back: what do its layers do to the loss only together?

A study for C23. It compares steps from the same weights, so that only the step differs. A step that is merely as short
is compared too, because any shorter step has less interaction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ics.experiments.data.examples import Batch
from ics.experiments.nets.layers import NetLayer, layers_in_order
from ics.experiments.training.config import RunConfig
from ics.experiments.training.evaluation import batch_statistics
from ics.experiments.training.experiment import prepare
from ics.experiments.training.losses import LossFunction

WHOLE, HELD, SHORTER = "whole step", "one layer changes signs", "whole step, as short"
Moves = dict[str, Tensor]
"""Parameter by name to what is added to it."""


def steps_held_back(*, seed: int, config: Mapping[str, Any], every: int) -> pd.DataFrame:
    """Train a net as usual and, every `every` steps, try the next step in three ways from the same weights.

    Args:
        seed: of the weights and the batches.
        config: of the training, as `RunConfig.from_dict` takes it; `net` may be left out.
        every: steps between two measurements.

    Returns:
        Three rows per step: `net` ("whole step": d, what the optimizer proposes; "one layer changes signs": d with 0
        for the weights that would change sign, but in the layer with most of them; "whole step, as short": d scaled to
        the length of the second), `step`, `length` ||d||, `interaction` (see `interaction`), `sign_changes` (weights
        that change sign in this way).

    Cost: the training, and at each measurement three forward passes per layer and six more.
    """
    experiment = prepare(RunConfig.from_dict({"net": "trained", **config, "seed": seed}))
    model, optimizer, rows = experiment.model, experiment.optimizer, []
    layers = layers_in_order(model, next(experiment.batches())[0][:2])
    for step, batch in enumerate(experiment.batches()):
        before = _values(model)
        optimizer.zero_grad()
        experiment.loss_fn(model, batch).backward()
        gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()  # a real one: its change of the weights contains momentum and second moments
        if step % every == 0:
            after = _values(model)
            _set(model, before)
            ways = three_steps(before, {name: after[name] - before[name] for name in gradient}, layers)
            for way, moves in ways.items():
                promised = sum(float((gradient[name] * move).sum()) for name, move in moves.items())
                found = interaction(model, experiment.loss_fn, batch, moves=moves, layers=layers, promised=promised)
                signs = sum(_num_crossing(before, moves, name) for name in moves)
                told = {"length": _length(moves), "interaction": found, "sign_changes": signs}
                rows.append({"net": way, "step": step} | told)
            _set(model, after)
    return pd.DataFrame(rows)


def three_steps(before: Mapping[str, Tensor], proposed: Moves, layers: Sequence[NetLayer]) -> dict[str, Moves]:
    """Return the proposed step, the step in which only one layer may change signs, and the first scaled to its length.

    The layer that may change signs is the one in which most weights would, as in
    `ics.experiments.training.one_layer`; in a tie, it is the first in the order of execution.
    """
    weights = {layer.name: [name for name in layer.parameters if _is_weight(name)] for layer in layers}
    counts = {layer: sum(_num_crossing(before, proposed, name) for name in own) for layer, own in weights.items()}
    chosen = max(counts, key=lambda layer: counts[layer])
    held = dict(proposed)
    for layer, own in weights.items():
        if layer != chosen:
            held |= {name: proposed[name].masked_fill(_crossing(before[name], proposed[name]), 0.0) for name in own}
    whole = _length(proposed)
    share = _length(held) / whole if whole > 0 else 1.0
    return {WHOLE: proposed, HELD: held, SHORTER: {name: move * share for name, move in proposed.items()}}


def interaction(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Batch,
    *,
    moves: Moves,
    layers: Sequence[NetLayer],
    promised: float,
) -> float:
    """Return |(L(all layers moved) - L) - sum_j (L(layer j alone moved) - L)| / |promised|, the model left as it was.

    This is what layers do to the loss only together, in units of what the gradient promises for all of them, g.d. It is
    0 if only one layer moves, or if the loss is a sum of functions of one layer each; inf if a loss is not finite;
    undefined if the gradient promises nothing. Losses are those of train mode.
    """
    start = _values(model)

    def loss_after(names: Sequence[str]) -> float:
        with torch.no_grad(), batch_statistics(model):
            _set(model, {name: start[name] + moves[name] for name in names})
            loss = float(loss_fn(model, batch))
            _set(model, start)
        return loss

    still = loss_after(())
    together = loss_after(list(moves)) - still
    alone = sum(loss_after([name for name in layer.parameters if name in moves]) - still for layer in layers)
    if promised == 0:
        return math.nan
    found = abs(together - alone) / abs(promised)
    return found if math.isfinite(found) else math.inf


def _num_crossing(before: Mapping[str, Tensor], moves: Moves, name: str) -> int:
    return int(_crossing(before[name], moves[name]).sum()) if _is_weight(name) else 0


def _crossing(before: Tensor, move: Tensor) -> Tensor:
    return before.sign() * (before + move).sign() < 0


def _is_weight(name: str) -> bool:
    return name.rpartition(".")[2] == "weight"


def _length(moves: Moves) -> float:
    return float(torch.cat([move.flatten() for move in moves.values()]).norm())


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _set(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
