"""C17: how much of each step is undone if the weights are changed after it to restore mean 0 and variance 1?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ics.claims.measures.training import final_loss
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above
from ics.claims.method.runs import changed
from ics.claims.method.study import Study
from ics.experiments.training.config import RunConfig
from ics.experiments.training.experiment import prepare
from ics.experiments.training.losses import total

_STUDY = "standardised once"
_FULL = ", full batch"
_COLUMNS = (
    "step",
    "loss",
    "proposed_loss",
    "floor_loss",
    "applied_loss",
    "undone_fraction",
    "floor_fraction",
    "undone_cosine",
    "proposed_update_norm",
    "undone_update_norm",
)


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """A restored, a standard and a BatchNorm net of each base, and on digits in full-batch training too."""
    minibatch = [
        config
        for name in budget.bases
        for config in (
            _restored(budget, name),
            *(base(budget, name, norm=norm) for norm in ("none", "batch")),
        )
    ]
    rivals = (
        base(budget, norm=norm, net=net_name(norm) + _FULL, batch_size=None, **_few(budget.steps))
        for norm in ("none", "batch")
    )
    return (*minibatch, _restored(budget, "digits", full=True), *rivals)


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """The digits nets that the restored ones start as, trained without restoring anything."""
    silent = {"instruments": {}, "options": {}, "evaluate_every": 0, "device": "cpu"}
    configs = [_restored(budget, "digits", full=full).replace(**silent) for full in (False, True)]
    settings = {"configs": [{"net": _once(config.net), **changed(config)} for config in configs]}
    return (Study(name=_STUDY, function=f"{__name__}:standardised_once", settings=settings),)


def standardised_once(*, seed: int, configs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Train nets with `whiten_after_step` that are standardised before the first step as those are, but never after.

    The restored net differs from these only in the restoring, not in where it starts.

    Returns:
        A row per net and step: `net`, `step`, `loss`.
    """
    frames = []
    for settings in configs:
        config = RunConfig.from_dict({**settings, "seed": seed})
        experiment = prepare(config)
        losses = []
        for batch in experiment.batches():
            experiment.optimizer.zero_grad()
            loss = total(experiment.loss_terms(batch))
            loss.backward()
            experiment.optimizer.step()  # and no experiment.after_step(batch)
            losses.append(float(loss.detach()))
        frames.append(pd.DataFrame({"net": config.net, "step": range(len(losses)), "loss": losses}))
    return pd.concat(frames, ignore_index=True)


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """What restoring takes of each step, in weights and in loss, and what it makes of the training."""
    restored = {setting: _restored_name(setting) for setting in _settings(found.budget)}
    rows = found.table("steps", columns=_COLUMNS, where={"net": list(restored.values())})
    rows = rows.assign(
        share=rows["undone_fraction"] - rows["floor_fraction"],
        size=rows["undone_update_norm"] / rows["proposed_update_norm"],
    )
    share, size, cosine = (per_seed(rows, name) for name in ("share", "size", "undone_cosine"))
    lost = gain_lost(rows)
    effects: list[Effect] = []
    for setting, net in restored.items():
        words: dict[str, Any] = {"unit": "1", "setting": setting}
        told = "part of a step p that restoring takes back, -<q, p> / ||p||^2, beyond what it takes of no step"
        effects.append(value(share, net, measure="undone_fraction", meaning=f"{told}; median over steps", **words))
        told = "part of what the steps gain on their batch that restoring loses again, sums over steps"
        effects.append(value(lost, net, measure="gain_lost", meaning=told, **words))
        told = "restoring's change q of the weights, ||q|| / ||p||, median over steps"
        effects.append(value(size, net, measure="change_over_step", meaning=told, **words))
        told = "cosine of restoring's change with the step, median over steps"
        effects.append(value(cosine, net, measure="undone_cosine", meaning=told, **words))
    return (*effects, *_trainings(found, restored))


def _trainings(found: Evidence, restored: Mapping[str, str]) -> list[Effect]:
    once = Evidence.of_frames({"steps": found.study(_STUDY)})
    losses = pd.concat([final_loss(found), final_loss(once)])
    effects = []
    for setting, net in restored.items():
        full = _FULL if setting.endswith(_FULL) else ""
        plain, normed = (net_name(norm, setting.removesuffix(_FULL)) + full for norm in ("none", "batch"))
        rivals = {"loss_against_standard": plain, "loss_against_batch": normed}
        if setting.startswith("digits"):
            rivals = {"loss_against_once": _once(net)} | rivals
        effects += [
            ratio(losses, net, rival, measure=measure, meaning="final training loss", setting=setting)
            for measure, rival in rivals.items()
        ]
    return effects


def gain_lost(rows: pd.DataFrame) -> pd.Series:
    """Return 1 - sum(floor_loss - applied_loss) / sum(loss - proposed_loss) over steps, by net and seed.

    The denominator is what the steps alone gain on their batches; the numerator what they gain where restoring
    follows, against restoring without a step. 0 if nothing is lost, 1 if all of it is, more if restored steps do harm.
    Where the steps alone gain nothing it is -inf if they gain with restoring, to which the fraction tends, else NaN.
    """
    gains = rows.assign(proposed=rows["loss"] - rows["proposed_loss"], kept=rows["floor_loss"] - rows["applied_loss"])
    steps = gains.groupby(["net", "seed"])[["proposed", "kept"]]
    # A sum over fewer steps than a net trains for is none; nets train for different numbers of steps.
    whole = steps.size().groupby("net").transform("max")
    sums = steps.sum().where(steps.count().eq(whole, axis="index"))
    lost: pd.Series = 1 - sums["kept"] / sums["proposed"].where(sums["proposed"] > 0)
    return lost.mask((sums["proposed"] <= 0) & (sums["kept"] > 0), -np.inf)


def _restored(budget: ClaimBudget, name: str, *, full: bool = False) -> RunConfig:
    plain = base(budget, name)
    setting = name + _FULL * full
    batch = {"batch_size": None} if full else {}
    return plain.replace(net=_restored_name(setting), whiten_after_step=True, **batch, **_few(plain.steps))


def _few(steps: int) -> dict[str, Any]:
    return {"instruments": {"activations": f"every({max(steps // 10, 1)})"}, "options": {}}


def _settings(budget: ClaimBudget) -> tuple[str, ...]:
    return (*budget.bases, f"digits{_FULL}")


def _restored_name(setting: str) -> str:
    return setting.replace("digits", "restored") if setting.startswith("digits") else f"restored, {setting}"


def _once(net: str) -> str:
    return net.replace("restored", _STUDY)


C17 = Claim(
    id="C17",
    nets=nets,
    studies=studies,
    evidence=evidence,
    rule=(
        above("undone_fraction", 0.5, why="a step that is undone is undone by more than half"),
        above("gain_lost", 0.5, why="a step that is wasted loses more than half of what it gained"),
        above("loss_against_once", 1.1, why="wasted steps leave a larger loss; a tenth is the least that counts"),
    ),
    published='"Significant wasted time, as the learning algorithm repeatedly proposed changing the mean and variance, '
    'and the normalization step repeatedly undid this change" (Goodfellow, Bengio & Courville 2016, sec. 8.7.1; no '
    "numbers).",
    remark="Restoring: W <- W / s, b <- (b - mu) / s for each hidden unit, on the batch of the step. In minibatch "
    "training another batch's mean and variance alone change the weights; that floor is taken off the fraction and the "
    "loss, and is 0 with full batches. The last criterion compares with a net that is standardised before the first "
    "step and never again. Where steps overshoot, raising the loss of their own batch, and restoring makes a gain of "
    "them, nothing is lost: gain_lost is -inf, a value given after this was seen on images. Inputs that come out of "
    "ReLUs have a mean, so that a good part of each step moves the means of units and nothing else, which is what "
    "restoring takes back. It is one way to restore; whitening by running averages, or with the layer after making up"
    " for it, would undo other parts of a step.",
)
