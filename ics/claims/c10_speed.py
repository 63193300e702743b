"""C10: does BatchNorm reach a loss in fewer steps, and bear larger learning rates?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ics.claims.measures.learning import level, steps_taken
from ics.claims.measures.training import final_loss
from ics.claims.method.budgets import ClaimBudget, base
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, ratio
from ics.claims.method.evidence import Evidence, MissingEvidenceError
from ics.claims.method.rules import above, below
from ics.experiments.training.config import RunConfig

_BN, _PLAIN, _HE = "BatchNorm", "standard", "standard, He"
_KINDS = (_BN, _PLAIN, _HE)
_GRIDS = {"digits": tuple(0.05 * 2**power for power in range(9)), "images": (0.0125, 0.05, 0.2, 0.8)}
_PAPER = (0.1, 0.5)


def grid(budget: ClaimBudget, base_name: str) -> tuple[float, ...]:
    """Return the learning rates that are tried: twice the last, on images four times, at `paper` the published two."""
    return _PAPER if budget.name == "paper" else _GRIDS[base_name]


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """BatchNorm, no normalisation, and no normalisation with He's initialisation, at each learning rate."""
    return tuple(
        _at_rate(budget, name, rate, kind) for name in budget.bases for rate in grid(budget, name) for kind in _KINDS
    )


def _at_rate(budget: ClaimBudget, base_name: str, rate: float, kind: str) -> RunConfig:
    """At the base's own rate a net is the run that claims share, if they do; all others record the loss alone."""
    config = base(budget, base_name, norm="batch" if kind == _BN else "none", net=_label(kind, base_name, rate))
    if kind != _HE and rate == config.learning_rate:
        return config
    started = {"init": "he"} if kind == _HE else {}
    return config.replace(learning_rate=rate, instruments={}, evaluate_every=0, **started)


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """BatchNorm against the standard net in torch's, and in He's, initialisation, on each base."""
    final = final_loss(found)
    effects: list[Effect] = []
    for name in found.budget.bases:
        loss, rates = level(found.budget, name), grid(found.budget, name)
        own_rate, taken = base(found.budget, name).learning_rate, steps_taken(found, loss)
        losses = {kind: by_rate(final, kind, name, rates) for kind in _KINDS}
        steps = {kind: by_rate(taken, kind, name, rates) for kind in _KINDS}
        same = _stacked({kind: table[own_rate] for kind, table in steps.items()})
        fastest = _stacked({kind: table.min(axis=1) for kind, table in steps.items()})
        until = f"steps until the training loss, a mean over 10 steps, is at most {loss:.2f}"
        at_most = f"largest learning rate of {rates[0]:g} to {rates[-1]:g} at which the final training loss is at most "
        told = {
            "steps": (same, f"{until}, at learning rate {own_rate:g}"),
            "steps_at_best_rate": (fastest, f"{until}, at the learning rate where this net is fastest"),
            "largest_rate": (borne(losses, loss), f"{at_most}{loss:.2f}"),
            "best_rate": (best(losses), "learning rate with the smallest final training loss"),
        }
        effects += [
            ratio(numbers, _BN, other, measure=measure, meaning=meaning, setting=f"{name}, against {other}")
            for measure, (numbers, meaning) in told.items()
            for other in (_PLAIN, _HE)
        ]
    return tuple(effects)


def by_rate(numbers: pd.Series, kind: str, base_name: str, rates: tuple[float, ...]) -> pd.DataFrame:
    """Return a row per seed and a column per learning rate; seeds of which a run is missing are left out."""
    labels = {_label(kind, base_name, rate): rate for rate in rates}
    # A seed that lacks a rate would choose its best, or its largest, from fewer.
    table = numbers.unstack("net").reindex(columns=list(labels)).rename(columns=labels).dropna()
    if table.empty:
        raise MissingEvidenceError(f"no seed has a run of {kind} on {base_name} at every learning rate")
    return table


def borne(final: dict[str, pd.DataFrame], loss: float) -> pd.Series:
    """Return the largest learning rate at which the final loss is at most `loss`, by kind and seed; 0 if at none.

    Where both BatchNorm and another net learn at the largest rate of the grid, which of them bears more is not known:
    that seed of the other net is undefined.
    """
    largest = {
        kind: (table <= loss).apply(lambda row: max((rate for rate in row.index if row[rate]), default=0.0), axis=1)
        for kind, table in final.items()
    }
    end = max(max(table.columns) for table in final.values())
    for kind in (_PLAIN, _HE):
        is_open = (largest[kind] == end) & (largest[_BN].reindex(largest[kind].index) == end)
        largest[kind] = largest[kind].where(~is_open, np.nan)
    return _stacked(largest)


def best(final: dict[str, pd.DataFrame]) -> pd.Series:
    """Return the learning rate with the smallest final loss, by kind and seed."""
    return _stacked({kind: table.apply(lambda row: float(row.idxmin()), axis=1) for kind, table in final.items()})


def _stacked(by_kind: dict[str, pd.Series]) -> pd.Series:
    return pd.concat(by_kind, names=["net", "seed"]).astype(float)


def _label(kind: str, base_name: str, rate: float) -> str:
    return f"{kind}, {base_name}, lr {rate:g}"


_FEWER = "a tenth fewer is the smallest improvement that counts"

C10 = Claim(
    id="C10",
    nets=nets,
    evidence=evidence,
    rule=(
        below("steps", 0.9, why=_FEWER),
        below("steps_at_best_rate", 0.9, why=_FEWER),
        above("largest_rate", 1.5, why="rates are tried by factors of 2 or more: this asks for at least one of them"),
    ),
    published="Inception on ImageNet: the accuracy of the net without BatchNorm in less than half of the steps at the "
    "same learning rate, in 7 % of them at five times the rate and without dropout; the net without BatchNorm diverges "
    "at that rate (Ioffe & Szegedy 2015, sec. 4.2). VGG on CIFAR-10 at lr 0.5: the standard net stays near 10 %, "
    "BatchNorm reaches 95 to 97 % on the training set (Santurkar et al. 2018, by eye).",
    remark="Twice: against the standard net as it starts in the other claims (torch's default, which lets activations "
    "shrink from layer to layer; at paper Glorot's), and in He's initialisation, which keeps their size. Plain SGD "
    "without a schedule. A net that never gets there took infinitely many steps; one that learns at no rate bears 0. "
    "Where both learn at the largest rate tried, the seed is undefined.",
)
