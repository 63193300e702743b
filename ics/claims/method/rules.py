"""Decision rules, fixed before anything is measured, and the verdicts that they give.

A criterion names a measure and the region in which its effect lies if the claim is true. The border of the region is
the smallest effect that counts, not zero: "BatchNorm reduces the shift" is not a claim about a thousandth. An interval
that lies wholly inside the region supports the claim, one wholly outside contradicts it, and one across the border
leaves it open.

A claim with several criteria is supported or contradicted if all of them agree, and mixed if some support and some
contradict. Otherwise, an open criterion leaves the claim inconclusive. No correction is made for the number of
criteria, because unanimity already makes a wrong verdict rarer than that of a single criterion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ics.claims.method.effects import Effect
from ics.claims.method.estimates import LEAST_CONFIDENCE, MIN_SEEDS, seeds_needed
from ics.errors import UsageError


class Outcome(StrEnum):
    """What a measurement says about a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    MIXED = "mixed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Criterion:
    """The region in which the effect of a measure lies if the claim is true; made by the functions below.

    Attributes:
        measure: `Effect.measure`; if a claim has several settings, the criterion applies to each.
        low, high: ends of the region, in the unit of the effect.
        exact: an equality: every single value must lie in the region, whatever the interval.
        why: the reason for the border.
    """

    measure: str
    low: float = -math.inf
    high: float = math.inf
    exact: bool = False
    why: str = ""

    def __post_init__(self) -> None:
        if not self.low <= self.high or math.inf in (self.low, -self.high) or self.low == -math.inf == -self.high:
            raise UsageError(
                f"a criterion has a border that effects can cross, got {self.low:g} to {self.high:g} for "
                f"{self.measure!r}; type e.g. below({self.measure!r}, 0.9)"
            )

    @property
    def text(self) -> str:
        """The region in words."""
        if self.exact:
            middle, radius = (self.low + self.high) / 2, (self.high - self.low) / 2
            return f"{self.measure} = {middle:g} (every value within {radius:g})"
        if self.high == math.inf:
            return f"{self.measure} > {self.low:g}"
        if self.low == -math.inf:
            return f"{self.measure} < {self.high:g}"
        return f"{self.measure} within {self.low:g} to {self.high:g}"


def above(measure: str, border: float, *, why: str = "") -> Criterion:
    """The effect is larger than `border`.

    Example:
        >>> above("train_loss_ratio", 1.1).text
        'train_loss_ratio > 1.1'
    """
    return Criterion(measure, low=border, why=why)


def below(measure: str, border: float, *, why: str = "") -> Criterion:
    """The effect is smaller than `border`."""
    return Criterion(measure, high=border, why=why)


def within(measure: str, low: float, high: float, *, why: str = "") -> Criterion:
    """The effect lies between the two. "As well as" is such a claim: it takes seeds to show, not an open result."""
    return Criterion(measure, low=low, high=high, why=why)


def equals(measure: str, number: float, *, tolerance: float, why: str = "") -> Criterion:
    """An equality of arithmetic: no value is further than `tolerance` from `number`."""
    return Criterion(measure, low=number - tolerance, high=number + tolerance, exact=True, why=why)


@dataclass(frozen=True, slots=True)
class Vote:
    """What one effect says under one criterion: supported, contradicted or inconclusive, and why."""

    criterion: Criterion
    effect: Effect | None
    outcome: Outcome
    reason: str
    seeds_needed: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, the reason in one sentence, about how many seeds an open claim needs, and every vote."""

    outcome: Outcome
    reason: str
    seeds_needed: int | None
    votes: tuple[Vote, ...]


def decide(effects: Sequence[Effect], rule: Iterable[Criterion]) -> Verdict:
    """Judge the effects by the criteria; an effect that no criterion names is shown but has no vote.

    Example:
        >>> from ics.claims.method.effects import Effect
        >>> shift = Effect(measure="shift", meaning="BN / standard", unit="1", scale="ratio",
        ...                values=((0, 0.5), (1, 0.55), (2, 0.52)))
        >>> decide([shift], [below("shift", 0.9)]).outcome
        <Outcome.SUPPORTED: 'supported'>
        >>> decide([shift], [above("shift", 1.1)]).outcome
        <Outcome.CONTRADICTED: 'contradicted'>
    """
    votes: list[Vote] = []
    for criterion in rule:
        named = [effect for effect in effects if effect.measure == criterion.measure]
        if named:
            votes += [judge(effect, criterion) for effect in named]
        else:
            votes.append(Vote(criterion, None, Outcome.INCONCLUSIVE, "it was not measured"))
    if not votes:
        raise UsageError("a claim is decided by at least one criterion, got none; type rule=(below('shift', 0.9),)")
    outcome = _united({vote.outcome for vote in votes})
    needed = [vote.seeds_needed for vote in votes if vote.outcome is Outcome.INCONCLUSIVE]
    defined = [number for number in needed if number is not None]
    # As many as the open vote that needs most; unknown if that of any is.
    seeds = max(defined) if defined and len(defined) == len(needed) else None
    return Verdict(outcome, _reason(votes), seeds, tuple(votes))


def judge(effect: Effect, criterion: Criterion) -> Vote:
    """Return what one effect says under one criterion."""
    found = effect.estimate
    # Seeds are not undefined by chance: a verdict on the few that are left would be one on a selection.
    asked = found.n + found.num_undefined
    if asked >= MIN_SEEDS and found.num_undefined > found.n // 2:
        seeds = "every seed" if not found.n else f"{found.num_undefined} of {asked} seeds"
        return Vote(criterion, effect, Outcome.INCONCLUSIVE, f"undefined for {seeds}")
    if found.n < MIN_SEEDS:
        what = f"{found.n} seed{'s decide' if found.n != 1 else ' decides'} nothing"
        undefined = f", {found.num_undefined} more were undefined" if found.num_undefined else ""
        return Vote(criterion, effect, Outcome.INCONCLUSIVE, what + undefined, MIN_SEEDS)
    if criterion.exact:
        return _judge_exactly(effect, criterion)
    if found.confidence < LEAST_CONFIDENCE:
        reason = f"values are infinite, and {found.n} seeds bound their median with {found.confidence:.0%} only"
        return Vote(criterion, effect, Outcome.INCONCLUSIVE, reason, _needed(effect, criterion))
    interval = f"{_number(found.center)} ({_number(found.low)} to {_number(found.high)}, n = {found.n})"
    if criterion.low <= found.low and found.high <= criterion.high:
        return Vote(criterion, effect, Outcome.SUPPORTED, interval)
    if found.high < criterion.low or found.low > criterion.high:
        return Vote(criterion, effect, Outcome.CONTRADICTED, interval)
    return Vote(criterion, effect, Outcome.INCONCLUSIVE, interval, _needed(effect, criterion))


def _judge_exactly(effect: Effect, criterion: Criterion) -> Vote:
    # No mean over seeds: an equality that fails for one seed is false.
    middle = (criterion.low + criterion.high) / 2
    defined = [number for number in effect.numbers if not math.isnan(number)]
    furthest = max(defined, key=lambda number: abs(number - middle))
    reason = f"furthest of {len(defined)} seeds: {_number(furthest)}"
    inside = all(criterion.low <= number <= criterion.high for number in defined)
    return Vote(criterion, effect, Outcome.SUPPORTED if inside else Outcome.CONTRADICTED, reason)


def _needed(effect: Effect, criterion: Criterion) -> int | None:
    """Return about how many seeds would tell the mean from every finite border of the region."""
    borders = [border for border in (criterion.low, criterion.high) if math.isfinite(border)]
    logarithmic = effect.scale == "ratio"
    numbers = [seeds_needed(effect.numbers, border, logarithmic=logarithmic) for border in borders]
    defined = [number for number in numbers if number is not None]
    return max(defined) if len(defined) == len(numbers) else None


def _united(outcomes: set[Outcome]) -> Outcome:
    # Even where another vote is open: however it ends, these two will not agree.
    if {Outcome.SUPPORTED, Outcome.CONTRADICTED} <= outcomes:
        return Outcome.MIXED
    return outcomes.pop() if len(outcomes) == 1 else Outcome.INCONCLUSIVE


def _reason(votes: Sequence[Vote]) -> str:
    parts = []
    for kind in (Outcome.SUPPORTED, Outcome.CONTRADICTED, Outcome.INCONCLUSIVE):
        told = [f"{_place(vote)}: {vote.reason}{_seeds(vote)}" for vote in votes if vote.outcome is kind]
        if told:
            word = "open" if kind is Outcome.INCONCLUSIVE else kind.value
            parts.append(f"{word} by {'; '.join(told)}" if word != "open" else f"open: {'; '.join(told)}")
    return " | ".join(parts)


def _place(vote: Vote) -> str:
    setting = f" ({vote.effect.setting})" if vote.effect is not None and vote.effect.setting else ""
    return f"{vote.criterion.text}{setting}"


def _seeds(vote: Vote) -> str:
    if vote.outcome is not Outcome.INCONCLUSIVE or vote.effect is None:
        return ""
    return f", needs about {vote.seeds_needed} seeds" if vote.seeds_needed else ", which more seeds may not settle"


def _number(number: float) -> str:
    return f"{number:.3g}"
