"""C25, C26: BatchNorm whose gradient takes the mean, or mean and variance, for constants."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ics.claims.measures.training import final_loss, last_norm, peak_loss
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, equals
from ics.claims.method.study import Study
from ics.claims.studies.detached_training import ALONE, BATCH, BOTH, FIXED, MEAN, TRAINING, studies
from ics.experiments.training.config import RunConfig

FACTOR = 5
"""Of the learning rate, for the second training of each net: 0.5 for VGG-16, at which BatchNorm's still trains."""
FASTER = f", {FACTOR} x learning rate"
_AFFINE = "gamma and beta learned", "gamma and beta fixed"
_FINAL = "mean training loss over the last tenth"
_FINAL_OF_STUDY = "mean training loss over the last twentieth, float64"
_PEAK = "largest training loss over the first one"


def nets_of_the_bias(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """BatchNorm with its mean detached, and BatchNorm, of each base."""
    return tuple(base(budget, name, norm=norm) for name in budget.bases for norm in (BATCH, MEAN))


def nets_of_the_scale(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """BatchNorm, and with mean, or mean and variance, detached, of each base at two learning rates."""
    return tuple(net for norm in (BATCH, MEAN, BOTH) for net in at_two_rates(budget, norm))


def studies_of_the_scale(budget: ClaimBudget) -> tuple[Study, ...]:
    """The whole trainings, without the biases by themselves."""
    return tuple(study for study in studies(budget) if study.name == TRAINING)


def at_two_rates(budget: ClaimBudget, norm: str) -> tuple[RunConfig, ...]:
    """Return the net of each base with its own learning rate and with `FACTOR` times that."""
    shared = [base(budget, name, norm=norm) for name in budget.bases]
    faster = [net.replace(net=net.net + FASTER, learning_rate=FACTOR * net.learning_rate) for net in shared]
    return (*shared, *faster)


def evidence_of_the_bias(found: Evidence) -> tuple[Effect, ...]:
    """The argument itself, then whether whole trainings show what it says."""
    return (*_by_itself(found), *_in_training(found), *_recorded(found))


def _by_itself(found: Evidence) -> tuple[Effect, ...]:
    """Nothing but the biases is trained."""
    rows, net = found.study(ALONE), net_name(MEAN)
    first = rows.groupby(["net", "seed"])["loss"].transform("first")
    change = rows.assign(change=(rows["loss"] - first).abs() / first.abs())
    told = {
        "loss_change_alone": (change, "change", "largest relative change of the loss, nothing but biases trained"),
        "departure_from_line": (rows, "from_line", "||b_t - b_0 - t (b_1 - b_0)|| / ||t (b_1 - b_0)||, largest"),
    }
    equalities = [
        value(per_seed(frame, column, by=(), reduce="max"), net, measure=measure, meaning=meaning, unit="1")
        for measure, (frame, column, meaning) in told.items()
    ]
    moved = per_seed(rows, "displacement", by=(), reduce="max")
    meaning = "||b_t - b_0||, nothing but biases trained"
    context = [value(moved, one, measure="bias_moved_alone", meaning=meaning, setting=one) for one in _named(moved)]
    return (*equalities, *context)


def _in_training(found: Evidence) -> tuple[Effect, ...]:
    """Everything is trained, in float64."""
    rows = found.study(TRAINING)
    growth, put_back = growth_exponents(rows), per_seed(rows, "loss_change", by=(), reduce="max")
    final, first = (per_seed(rows, name, by=(), reduce="last") for name in ("loss", "first_loss"))
    effects: list[Effect] = []
    for fixed, setting in zip(("", FIXED), _AFFINE, strict=True):
        net, batch = net_name(MEAN) + fixed, net_name(BATCH) + fixed
        effects += [
            value(
                put_back,
                net,
                measure="loss_change_put_back",
                meaning="relative change of the loss if all biases are put back to where they started",
                unit="1",
                setting=setting,
            ),
            value(
                growth,
                net,
                measure="growth_exponent",
                meaning="log2 of ||b - b_0|| after all steps over that after half of them",
                unit="1",
                setting=setting,
            ),
            value(
                final / first,
                net,
                measure="loss_left",
                meaning=f"{_FINAL_OF_STUDY}, over the first loss",
                unit="1",
                setting=setting,
            ),
            ratio(final, net, batch, measure="final_loss", meaning=_FINAL_OF_STUDY, setting=setting),
        ]
    return tuple(effects)


def _recorded(found: Evidence) -> tuple[Effect, ...]:
    """How large biases are beside those of BatchNorm, which stay where they started, and beside the weights."""
    norms, weights = (last_norm(found, parameter=parameter) for parameter in ("bias", "weight"))
    told = "||b|| of all hidden layers at the last measured step"
    effects = []
    for name in found.budget.bases:
        net, batch = net_name(MEAN, name), net_name(BATCH, name)
        effects.append(ratio(norms, net, batch, measure="bias_norm", meaning=told, setting=name))
        share = f"{told}, over ||W||"
        effects.append(value(norms / weights, net, measure="bias_over_weight", meaning=share, unit="1", setting=name))
    return tuple(effects)


def growth_exponents(rows: pd.DataFrame) -> pd.Series:
    """Return log2(||b_T - b_0|| / ||b_{T/2} - b_0||) of each net and seed of the study of whole trainings.

    1 for a bias that moves along a line, 1/2 for one that wanders at random, 0 for one that has arrived; inf where it
    overflowed, undefined where it did not move in the first half.
    """
    found = {}
    for key, own in rows.groupby(["net", "seed"], sort=False):
        steps, moved = own["step"].to_numpy(float), own["displacement"].to_numpy(float)
        # Two times of one run: a factor that all biases share, such as the learning rate, cancels.
        half, whole = float(np.interp(steps[-1] / 2, steps, moved)), float(moved[-1])
        found[key] = np.inf if whole == np.inf else np.log2(whole / half) if min(half, whole) > 0 else np.nan
    return pd.Series(found, dtype=float).rename_axis(["net", "seed"])


def evidence_of_the_scale(found: Evidence) -> tuple[Effect, ...]:
    """Mean and variance detached: the loss, its peak and the weights, beside the mean alone detached."""
    final, peak, weights = final_loss(found), peak_loss(found), last_norm(found, parameter="weight")
    effects: list[Effect] = []
    for name in found.budget.bases:
        for suffix in ("", FASTER):
            both, mean, batch = (net_name(norm, name) + suffix for norm in (BOTH, MEAN, BATCH))
            setting = name + suffix
            effects += _worse(final, peak, weights, both=both, mean=mean, batch=batch, setting=setting, told=_FINAL)
    rows = found.study(TRAINING)
    rows = rows.assign(peak=rows["peak_loss"] / rows["first_loss"])
    numbers = [
        per_seed(rows, "loss", by=(), reduce="last"),
        per_seed(rows, "peak", by=(), reduce="max"),
        per_seed(rows, "weight_norm", by=(), reduce="last"),
    ]
    both, mean, batch = (net_name(norm) + FIXED for norm in (BOTH, MEAN, BATCH))
    worse = _worse(*numbers, both=both, mean=mean, batch=batch, setting=_AFFINE[1], told=_FINAL_OF_STUDY)
    return (*effects, *worse)


def _worse(
    final: pd.Series, peak: pd.Series, weights: pd.Series, *, both: str, mean: str, batch: str, setting: str, told: str
) -> list[Effect]:
    size = "||W|| of all hidden layers at the end"
    return [
        ratio(final, both, mean, measure="final_loss", meaning=told, setting=setting),
        value(peak, both, measure="peak_loss", meaning=_PEAK, unit="1", setting=setting),
        ratio(weights, both, mean, measure="weight_norm", meaning=size, setting=setting),
        ratio(weights, both, batch, measure="weight_norm_over_BatchNorm", meaning=size, setting=setting),
        ratio(final, both, batch, measure="final_loss_over_BatchNorm", meaning=told, setting=setting),
        value(peak, mean, measure="peak_loss_mean_detached", meaning=_PEAK, unit="1", setting=setting),
        value(peak, batch, measure="peak_loss_BatchNorm", meaning=_PEAK, unit="1", setting=setting),
    ]


def _named(numbers: pd.Series) -> list[str]:
    return list(dict.fromkeys(str(net) for net, _ in numbers.index))


_EXACT = "an equality of arithmetic, up to rounding in float64"

C25 = Claim(
    id="C25",
    nets=nets_of_the_bias,
    studies=studies,
    evidence=evidence_of_the_bias,
    rule=(
        equals("loss_change_alone", 0.0, tolerance=1e-9, why=_EXACT),
        equals("departure_from_line", 0.0, tolerance=1e-9, why=_EXACT + ": every step repeats the first"),
        equals("loss_change_put_back", 0.0, tolerance=1e-9, why=_EXACT + ": the output does not depend on the bias"),
        above("growth_exponent", 0.25, why="half of what a bias has that wanders at random; one that arrives has 0"),
        above("bias_norm", 2.0, why="a bias that has not doubled has not begun to grow without bound"),
    ),
    published="Argued for a layer x-hat = u + b - E[u + b] whose b alone is looked at: b grows indefinitely while the "
    "loss remains fixed (Ioffe & Szegedy 2015, sec. 2). No numbers are given.",
    remark="The argument is exact where nothing but b moves. In a whole training dL/db is gamma/sigma times dL/dbeta: "
    "once a learned beta has arrived, b has no reason to go on, so the growth is asked for with gamma and beta learned "
    "and fixed at 1 and 0, the layer that the argument is about. That the loss stays put is judged as far as b goes: "
    "what b has become moves no loss. Other weights do move it: loss_left says how far, and final_loss what BatchNorm "
    "reaches in the same steps. Weights are driven along the mean of their inputs for the same reason as b, which is "
    "lost on the loss as well. On images biases start at 0, and BatchNorm leaves them there but for rounding: there "
    "bias_norm is a ratio to next to nothing, and bias_over_weight tells the size. The studies are of the digits net "
    "alone.",
)

C26 = Claim(
    id="C26",
    nets=nets_of_the_scale,
    studies=studies_of_the_scale,
    evidence=evidence_of_the_scale,
    rule=(
        above("final_loss", 1.1, why="a tenth more is the smallest effect that is worse"),
        above("peak_loss", 2.0, why="a loss that never doubles is no explosion"),
        above("weight_norm", 2.0, why="weights that are not twice as large are no explosion"),
    ),
    published="The model blows up when the normalisation's parameters are computed outside of the gradient step, and "
    "scaling as well as centring can make it worse (Ioffe & Szegedy 2015, sec. 2). No numbers are given.",
    remark="final_loss says worse, peak_loss and weight_norm blown up: beside the net whose mean alone is detached, "
    "with BatchNorm shown too. The forward pass normalises by the batch as ever, and only the gradient takes its "
    "statistics for constants, so that large weights do not make a large loss. Running averages instead of the batch's "
    "statistics, which do not keep values in bounds, are another experiment (C28).",
)
