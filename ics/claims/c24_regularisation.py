"""C24: does BatchNorm lower the need for other regularisation: smaller gap, less gained by dropout or weight decay?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ics.claims.measures.learning import last, of_net
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, difference, value
from ics.claims.method.evidence import Evidence, MissingEvidenceError
from ics.claims.method.rules import above, below
from ics.experiments.training.config import RunConfig

LIMIT = 20
"""Digits per class to train on, a seventh of all: few enough to be learnt by heart."""

_STRENGTHS: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "digits": {"dropout": (0.1, 0.3, 0.5), "weight_decay": (0.003, 0.01, 0.03)},
    "images": {"dropout": (0.1, 0.3)},
}
_EXAMPLES = "fraction of examples"


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """Both nets without further regularisation, and with each strength of each kind."""
    return tuple(config for name in budget.bases for norm in ("none", "batch") for config in _nets(budget, name, norm))


def _nets(budget: ClaimBudget, name: str, norm: str) -> list[RunConfig]:
    plain = base(budget, name, norm=norm)
    if budget.name != "paper":
        plain = plain.replace(**_learnt_by_heart(plain))
    regularised = [
        plain.replace(net=_label(norm, name, kind, strength), instruments={}, **{kind: strength})
        for kind, strengths in _STRENGTHS[name].items()
        for strength in strengths
    ]
    return [plain, *regularised]


def _learnt_by_heart(config: RunConfig) -> dict[str, Any]:
    """Return settings with which the net without BatchNorm also learns its examples by heart.

    A small gap means nothing for a net that did not. The settings are He's initialisation, at least 1000 steps and few
    examples; there are few images anyway.
    """
    steps = max(1000, 2 * config.steps)
    few = {"limit": LIMIT} if config.data == "digits" else {}
    return {"init": "he", "instruments": {}, "steps": steps, "evaluate_every": steps // 10, **few}


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Gaps and gains, BatchNorm against standard, and BatchNorm alone against the standard net with dropout."""
    numbers = {name: last(found, name) for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy")}
    effects: list[Effect] = []
    for name in found.budget.bases:
        effects += [*_learnt(numbers["train_accuracy"], name), *_gaps(numbers, name)]
        for kind in _STRENGTHS[name]:
            effects += _gains(numbers, name, kind)
        effects.append(_instead_of_dropout(numbers["test_accuracy"], name))
    return tuple(effects)


def _learnt(accuracy: pd.Series, name: str) -> list[Effect]:
    """Whether each net learnt its examples, without which its gap says nothing."""
    told = "training accuracy without further regularisation, at the end of training, in eval mode"
    words = {"measure": "train_accuracy", "meaning": told, "unit": _EXAMPLES}
    return [value(accuracy, net, setting=net, **words) for net in (net_name(norm, name) for norm in ("none", "batch"))]


def _gaps(numbers: Mapping[str, pd.Series], name: str) -> list[Effect]:
    told = "without further regularisation, at the end of training, in eval mode"
    pair = net_name("batch", name), net_name("none", name)
    loss = numbers["test_loss"] - numbers["train_loss"]
    accuracy = numbers["train_accuracy"] - numbers["test_accuracy"]
    words = {"measure": "loss_gap", "meaning": f"test - training loss {told}", "unit": "nat"}
    others = {"measure": "accuracy_gap", "meaning": f"training - test accuracy {told}", "unit": _EXAMPLES}
    return [difference(loss, *pair, setting=name, **words), difference(accuracy, *pair, setting=name, **others)]


def _gains(numbers: Mapping[str, pd.Series], name: str, kind: str) -> list[Effect]:
    """What the best strength of a kind adds to each net: the need for it is what is lost without it."""
    told, strengths = kind.replace("_", " "), ", ".join(f"{one:g}" for one in _STRENGTHS[name][kind])
    pair = net_name("batch", name), net_name("none", name)
    lowered, raised = gains(-numbers["test_loss"], name, kind), gains(numbers["test_accuracy"], name, kind)
    by_best, setting = f"by the best {told} of {strengths}", f"{name}, {told}"
    words = {"measure": "loss_gain", "meaning": f"test loss lowered {by_best}", "unit": "nat"}
    others = {"measure": "accuracy_gain", "meaning": f"test accuracy raised {by_best}", "unit": _EXAMPLES}
    return [difference(lowered, *pair, setting=setting, **words), difference(raised, *pair, setting=setting, **others)]


def gains(goodness: pd.Series, name: str, kind: str) -> pd.Series:
    """Return by how much a kind of regularisation raises a number, by net without it and seed.

    Of its strengths the one that is best for the net on average over seeds, as one would choose it; negative where even
    that one harms.
    """
    plain = {norm: net_name(norm, name) for norm in ("none", "batch")}
    gained = {plain[norm]: best(goodness, norm, name, kind) - of_net(goodness, plain[norm]) for norm in plain}
    return pd.concat(gained, names=["net", "seed"])


def best(goodness: pd.Series, norm: str, name: str, kind: str) -> pd.Series:
    """Return the numbers, by seed, of the strength whose mean over seeds is largest."""
    by_strength = [of_net(goodness, _label(norm, name, kind, strength)) for strength in _STRENGTHS[name][kind]]
    measured = [numbers for numbers in by_strength if not numbers.empty]
    if not measured:
        raise MissingEvidenceError(f"no run of {net_name(norm, name)} with {kind.replace('_', ' ')} is there")
    return max(measured, key=lambda numbers: float(numbers.mean()))


def _instead_of_dropout(accuracy: pd.Series, name: str) -> Effect:
    """BatchNorm without dropout against the standard net with it."""
    alone, with_dropout = net_name("batch", name), f"{net_name('none', name)} with dropout"
    numbers = pd.concat({alone: of_net(accuracy, alone), with_dropout: best(accuracy, "none", name, "dropout")})
    told = "test accuracy in eval mode, at the end of training"
    words = {"measure": "instead_of_dropout", "meaning": told, "unit": _EXAMPLES, "setting": name}
    return difference(numbers, alone, with_dropout, **words)


def _label(norm: str, name: str, kind: str, strength: float) -> str:
    return f"{net_name(norm, name)}, {kind.replace('_', ' ')} {strength:g}"


_LESS = "one example in a hundred is the smallest difference that counts"
_NATS = "a twentieth of a nat, 5 % of the probability of the right class, is the smallest difference that counts"

C24 = Claim(
    id="C24",
    nets=nets,
    evidence=evidence,
    rule=(
        below("loss_gap", -0.05, why=_NATS),
        below("accuracy_gap", -0.01, why=_LESS),
        below("loss_gain", -0.05, why=_NATS),
        below("accuracy_gain", -0.01, why=_LESS),
        above("instead_of_dropout", -0.01, why="one example in a hundred is the largest loss that counts as none"),
    ),
    published="Inception on ImageNet: with BatchNorm dropout can be left out without more overfitting, and weight "
    "decay made five times weaker (Ioffe & Szegedy 2015, sec. 3.4 and 4.2.1).",
    remark=f"Digits: {LIMIT} examples per class for training and as many for the test, always the same ones, so that "
    "intervals are over initialisations and orders, not over test sets. A need is measured as what is lost without: "
    "how much less dropout, or weight decay, adds to a net with BatchNorm. It can be small because BatchNorm "
    "regularises, or because dropout disturbs BatchNorm's statistics (Li et al. 2019): these runs do not tell the two "
    "apart. A gap says something of nets that learnt their examples only (train_accuracy near 1); to that end both "
    "start from He's initialisation and train longer than the nets of other claims.",
)
