"""C22: does noisy BatchNorm train as well as BatchNorm although its distributions are less stable than without?"""

from __future__ import annotations

from dataclasses import dataclass

from ics.claims.measures.learning import Pair, compared_accuracy, compared_loss, compared_steps, last
from ics.claims.measures.stability import Reference, before_activation, movement, seen
from ics.claims.measures.training import final_loss
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, ratio
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, below
from ics.experiments.training.config import RunConfig

NOISY = "noisy-batch"
_DISTANCES = {
    "mean_shift": "|change of a channel's mean| in standard deviations",
    "log_variance_ratio": "|change of a channel's log variance|",
}
_STEP, _MEASUREMENT, _START = "from one step to the next", "from one look to the next", "since the first step"
_BY_STEP = ", step by step"


@dataclass(frozen=True, slots=True)
class _View:
    """A way to measure stability.

    Attributes:
        suffix: of the measures.
        since: in words, between which steps.
        norm: what noisy BatchNorm is held against.
        next_layer: measure what the next layer sees, instead of what activation functions are applied to.
    """

    suffix: str
    since: str
    norm: str = "none"
    next_layer: bool = False


_VIEWS = (
    _View("_of_step", _STEP),
    _View("", _MEASUREMENT),
    _View("_since_start", _START),
    _View("_of_step_next_layer", _STEP, next_layer=True),
    _View("_of_step_against_batchnorm", _STEP, norm="batch"),
)


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """The standard, the BatchNorm and the noisy BatchNorm net of each base, and the same measured in pairs of steps."""
    shared = tuple(base(budget, name, norm=norm) for name in budget.bases for norm in ("none", "batch", NOISY))
    return (*shared, *(_in_pairs(config) for config in shared))


def _in_pairs(config: RunConfig) -> RunConfig:
    """Measure at two steps that follow each other, ten times during the training."""
    apart = max(config.steps // 10, 2)
    steps = [step + further for step in range(0, config.steps - 1, apart) for further in (0, 1)]
    return config.replace(net=config.net + _BY_STEP, instruments={"activations": f"at({steps})"})


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Noisy BatchNorm against BatchNorm (how it learns) and against the standard net (how stable it is)."""
    return (*_learning(found), *_stability(found))


def _learning(found: Evidence) -> list[Effect]:
    """Compare with the standard net too: if it learns as well, there is nothing for stability to explain."""
    accuracies = {column: last(found, column) for column in ("train_accuracy", "test_accuracy")}
    quiet, noisy = last(found, "train_loss"), final_loss(found)
    told = "training loss in eval mode, without noise, at the end of training"
    effects: list[Effect] = []
    for name in found.budget.bases:
        pair = Pair(net_name(NOISY, name), net_name("batch", name), name, name)
        standard = Pair(net_name(NOISY, name), net_name("none", name), name, f"against standard, {name}")
        effects += [
            *(compared_accuracy(values, pair, measure=column) for column, values in accuracies.items()),
            ratio(quiet, pair.net, pair.other, measure="train_loss", meaning=told, setting=name),
            *(compared_loss(noisy, each) for each in (pair, standard)),
            *compared_steps(found, (pair, standard)),
        ]
    return effects


def _stability(found: Evidence) -> list[Effect]:
    """How far distributions move between measured steps.

    Measured on the activations of training, whose noise is drawn anew at every step. The table `drift` cannot be used:
    it measures one batch with the same random numbers each time, so noise causes no drift there.
    """
    places = {
        False: ("what activation functions are applied to", before_activation(found)),
        True: ("what the next layer sees", seen(found)),
    }
    effects = []
    for view in _VIEWS:
        place, rows = places[view.next_layer]
        reference: Reference = "first" if view.since == _START else "previous"
        apart, tail = (1, _BY_STEP) if view.since == _STEP else (None, "")
        for distance, told in _DISTANCES.items():
            moved = movement(found, rows, distance, reference=reference, apart=apart)
            meaning = f"{told} of {place}, {view.since}, mean over channels, median over layers, then over steps"
            for name in found.budget.bases:
                pair = net_name(NOISY, name) + tail, net_name(view.norm, name) + tail
                effects.append(ratio(moved, *pair, measure=distance + view.suffix, meaning=meaning, setting=name))
    return effects


_NONE = "one example in a hundred is the largest loss that counts as none"
_LESS = "a tenth more is the smallest instability that counts"

C22 = Claim(
    id="C22",
    nets=nets,
    evidence=evidence,
    rule=(
        above("train_accuracy", -0.01, why=_NONE),
        above("test_accuracy", -0.01, why=_NONE),
        below("train_loss", 1.25, why="a quarter more is the largest difference that still counts as training as well"),
        *(above(name + since, 1.1, why=_LESS) for since in ("_of_step", "", "_since_start") for name in _DISTANCES),
    ),
    published="VGG on CIFAR-10, lr 0.1 and 0.5: training with noisy BatchNorm is almost as good as with BatchNorm, and "
    "better than without, while its distributions are less stable than the standard net's (Santurkar et al. 2018, "
    "sec. 2.1 and Fig. 2, by eye).",
    remark="Noise is new at every step, learning moves distributions slowly: from one step to the next noise counts "
    "most; from look to look (a tenth of the training; at paper closer at first) and since the start the standard net "
    "may have moved further. The standard net's distances hold what drawing another batch does, which BatchNorm takes "
    "away: with 64 values per channel, as in digits, that alone moves a variance about as far as the noise does; "
    "images have thousands. Where the standard net learns as well (final_loss and steps against standard near 1), "
    "there is nothing that stability could explain. Accuracies and train_loss are taken in eval mode, without the "
    "noise; final_loss is with it.",
)
