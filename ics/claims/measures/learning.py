"""How well one net learns compared with another: final loss, steps to a given loss, accuracy on the test set."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from ics.claims.measures.training import final_loss, steps_to
from ics.claims.method.budgets import ClaimBudget
from ics.claims.method.effects import Effect, difference, ratio
from ics.claims.method.evidence import Evidence

GUESSING = math.log(10)
"""Cross entropy of guessing among ten classes, which digits and CIFAR-10 have."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two nets to be compared, the base net that both come from, and the name of the comparison."""

    net: str
    other: str
    base: str
    setting: str


def level(budget: ClaimBudget, base: str) -> float:
    """Return the training loss that counts as learnt: a quarter of guessing's.

    On a slice of the images it is three quarters, because training ends long before a quarter.
    """
    is_short = base == "images" and budget.name != "paper"
    return (0.75 if is_short else 0.25) * GUESSING


def steps_taken(found: Evidence, loss: float) -> pd.Series:
    """Return how many steps it took until the running mean of the training loss was at most `loss`; inf if never."""
    return steps_to(found, loss) + 1


def compared(found: Evidence, pairs: Iterable[Pair]) -> list[Effect]:
    """Return `final_loss` (ratio), `steps` (ratio) and `test_accuracy` (difference) of each pair."""
    pairs = list(pairs)
    losses, accuracies = final_loss(found), last(found, "test_accuracy")
    return [
        *(compared_loss(losses, pair) for pair in pairs),
        *compared_steps(found, pairs),
        *(compared_accuracy(accuracies, pair, measure="test_accuracy") for pair in pairs),
    ]


def compared_loss(losses: pd.Series, pair: Pair) -> Effect:
    """Return the ratio of the final training losses of a pair."""
    told = "training loss, mean over the last tenth of the steps"
    return ratio(losses, pair.net, pair.other, measure="final_loss", meaning=told, setting=pair.setting)


def compared_steps(found: Evidence, pairs: Iterable[Pair]) -> list[Effect]:
    """Return the ratio of the steps that the nets of each pair took to the `level` of their base."""
    effects = []
    for pair in pairs:
        loss = level(found.budget, pair.base)
        told = f"steps until the training loss, a mean over 10 steps, is at most {loss:.2f}"
        steps = steps_taken(found, loss)
        effects.append(ratio(steps, pair.net, pair.other, measure="steps", meaning=told, setting=pair.setting))
    return effects


def compared_accuracy(accuracies: pd.Series, pair: Pair, *, measure: str) -> Effect:
    """Return the difference of an accuracy within a pair; `measure` is its column, e.g. `"test_accuracy"`."""
    told = f"{measure.replace('_', ' ')} in eval mode, at the end of training"
    words = {"measure": measure, "meaning": told, "unit": "fraction of examples", "setting": pair.setting}
    return difference(accuracies, pair.net, pair.other, **words)


def last(found: Evidence, column: str) -> pd.Series:
    """Return the mean of what was logged in a column over the last tenth of the evaluations, by net and seed."""
    return final_loss(found, column=column)


def of_net(numbers: pd.Series, net: str) -> pd.Series:
    """Return the numbers of one net, by seed; empty if there are none."""
    return numbers[numbers.index.get_level_values("net") == net].droplevel("net")
