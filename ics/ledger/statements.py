"""What is claimed about BatchNorm, and where: the rows of the ledger, whether or not they have been measured.

Statements keep the words of those who make them. Nothing in this file says whether they are true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statement:
    """A claim in one sentence, and where it is made.

    Attributes:
        id: `"C01"`, `"C02"`, ....
        title: a few words for tables.
        sentence: what is claimed.
        source: where; "asked in discussions" where no publication makes it.
    """

    id: str
    title: str
    sentence: str
    source: str


_IOFFE = "Ioffe & Szegedy 2015"
_SANTURKAR = "Santurkar et al. 2018"
_GOODFELLOW = "Goodfellow, Bengio & Courville 2016, sec. 8.7.1"
_ASKED = "asked in discussions"

_ROWS = (
    (
        "C01",
        "Wu+b keeps its shape, u does not",
        "The shape of Wu+b's distribution changes less over training than the shape of u's.",
        f"{_IOFFE}, sec. 3.2",
    ),
    (
        "C02",
        "Wu+b is more Gaussian than u",
        "Wu+b is more Gaussian, more symmetric and less sparse than u.",
        f"{_IOFFE}, sec. 3.2",
    ),
    (
        "C03",
        "Wu+b is Gaussian by the central limit theorem",
        "Wu+b approaches a Gaussian as fan-in grows, whatever u's distribution, at initialisation and after training.",
        f"Hyvärinen & Oja 2000, as cited by {_IOFFE}, sec. 3.2",
    ),
    (
        "C04",
        "Pre-activations after BN are stable",
        "Pre-activations after BN keep a stable distribution during training, in shape as in mean and variance.",
        f"{_IOFFE}, sec. 3.2",
    ),
    (
        "C05",
        "BN(Wu) beats BN(u)",
        "BN before the activation function, BN(Wu), works better than BN of the layer's input, BN(u).",
        f"{_IOFFE}, sec. 3.2",
    ),
    (
        "C06",
        "gamma and beta undo the fixing",
        "With learned gamma and beta the next layer's input distribution is not fixed.",
        f"{_ASKED}; {_IOFFE}, sec. 3 introduces gamma and beta",
    ),
    (
        "C07",
        "The same over time, not the same across layers",
        "What matters is that one layer sees the same distribution over time, not that layers are alike.",
        _ASKED,
    ),
    (
        "C08",
        "gamma and beta cannot change the shape",
        "gamma and beta shift and scale, and so change no standardised moment of the distribution.",
        "an equality",
    ),
    (
        "C09",
        "A Gaussian is not needed",
        "A Gaussian is the target because of its two parameters, others could serve: l1, l2 and linf train as well "
        "although their activations are less Gaussian.",
        f"{_SANTURKAR}, sec. 3.3",
    ),
    (
        "C10",
        "BN is faster and bears larger learning rates",
        "BN reaches a given loss in fewer steps and bears larger learning rates.",
        f"{_IOFFE}, sec. 3.3 and 4.2",
    ),
    (
        "C11",
        "Weights neither grow nor shrink extremely",
        "With BN weights have no incentive to grow or shrink extremely.",
        f"{_IOFFE}, sec. 3.3; van Laarhoven 2017",
    ),
    (
        "C12",
        "BN keeps sigmoids out of saturation",
        "BN keeps sigmoid units out of saturation and makes deep sigmoid nets trainable.",
        f"{_IOFFE}, sec. 1 and 4.2.2",
    ),
    (
        "C13",
        "Running averages stand in at test time",
        "Running averages at test time stand in for batch statistics.",
        f"{_IOFFE}, sec. 3.1",
    ),
    (
        "C14",
        "Terms of higher order grow with depth",
        "In a chain of one unit per layer the terms of higher order in an update grow with depth, and BN tames them.",
        _GOODFELLOW,
    ),
    (
        "C15",
        "A gradient presumes that other layers stand still",
        "Moving all layers at once, as training does, makes an error that moving one layer at a time does not make.",
        _GOODFELLOW,
    ),
    (
        "C16",
        "A Gaussian penalty would do",
        "A penalty towards Gaussian activations is a workable substitute for BN.",
        f"{_ASKED}; {_GOODFELLOW} reports of earlier penalties that normalisation stayed imperfect",
    ),
    (
        "C17",
        "Restoring the distribution wastes the step",
        "Changing parameters after each step to restore the distribution undoes what the step did.",
        _GOODFELLOW,
    ),
    (
        "C18",
        "BN reduces internal covariate shift",
        "BN reduces internal covariate shift in a VGG-like net.",
        f"{_IOFFE}, sec. 2 and 3; measured as G against G' by {_SANTURKAR}, sec. 2.2",
    ),
    (
        "C19",
        "Deep linear net: shift only with BN",
        "In a deep linear net the standard net has almost no shift while BN's G and G' are almost uncorrelated.",
        f"{_SANTURKAR}, sec. 2.2 and Fig. 2",
    ),
    (
        "C20",
        "BN makes the loss more planar",
        "With BN the loss is more nearly planar in an epsilon-ball around the parameters.",
        f"{_ASKED}; {_SANTURKAR}, sec. 3.1",
    ),
    (
        "C21",
        "BN smooths the loss and its gradient",
        "BN improves the Lipschitzness of the loss and of its gradient: loss range, gradient predictiveness and "
        "effective beta along the gradient are smaller.",
        f"{_SANTURKAR}, sec. 3.1, 3.2 and Fig. 4",
    ),
    (
        "C22",
        "Unstable distributions do not hurt",
        "Distributional instability does not explain BN: noisy BN trains as well as BN with less stable distributions "
        "than the standard net.",
        f"{_SANTURKAR}, sec. 2.1",
    ),
    (
        "C23",
        "One layer's signs at a time",
        "Letting only one layer at a time change the sign of its weights tames the interaction between layers.",
        _ASKED,
    ),
    (
        "C24",
        "BN lowers the need for regularisation",
        "BN lowers the need for other regularisation, such as dropout.",
        f"{_IOFFE}, sec. 3.4",
    ),
    (
        "C25",
        "A detached mean lets the bias grow",
        "If the mean is treated as a constant in the gradient, the bias grows without bound while the loss stays put.",
        f"{_IOFFE}, sec. 2",
    ),
    (
        "C26",
        "A detached scale is worse",
        "If the scale is treated as a constant in the gradient as well, the model blows up.",
        f"{_IOFFE}, sec. 2",
    ),
    (
        "C27",
        "The bias in front of BN is cancelled",
        "The bias in front of BN is cancelled: its gradient is zero, and removing it changes nothing.",
        f"{_IOFFE}, sec. 3.2",
    ),
    (
        "C28",
        "Running averages in training are not BN",
        "Normalising by running averages outside the gradient step is not BN: it trains differently.",
        f"{_IOFFE}, sec. 2",
    ),
    (
        "C29",
        "Gradients grow by 1.21 per layer",
        "ReLU and BN make gradients grow by sqrt(pi / (pi - 1)) = 1.21 per layer at initialisation.",
        "Yang et al. 2019",
    ),
    (
        "C30",
        "Effective beta is held at 2/lr",
        "The plateau of effective beta is 2/lr, whatever the net.",
        f"Cohen et al. 2021, on {_SANTURKAR}, Fig. 4",
    ),
    (
        "C31",
        "BN prevents rank collapse",
        "BN prevents the rank collapse of deep nets at initialisation.",
        "Daneshmand et al. 2020",
    ),
)

STATEMENTS: Mapping[str, Statement] = {row[0]: Statement(*row) for row in _ROWS}
"""Every row of the ledger by its identifier, in order."""
