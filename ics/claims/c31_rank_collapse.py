"""C31: does BatchNorm prevent the collapse of the rank of a deep net's representations at initialisation?

A batch of random inputs goes through random layers, with and without BatchNorm. The singular values s_i of a layer's
matrix (samples, units) tell, in three ways, how many directions it has. One direction means collapse: all samples are
then multiples of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ics.claims.method.budgets import ClaimBudget
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, below
from ics.claims.method.study import Study

_STUDY = "ranks"
_BATCH, _PLAIN = "BatchNorm", "standard"
_SIZES = {
    "quick": {"depth": 128, "widths": [16, 32, 64], "draws": 16},
    "cpu": {"depth": 512, "widths": [16, 32, 64, 128], "draws": 8},
    "paper": {"depth": 1024, "widths": [16, 32, 64, 128, 256], "draws": 8},
}
_SAMPLES = (0.5, 4)
_NUM_MEASUREMENTS = 32
_EPS = 1e-5
_SHARE = 0.1
_NAMES = {"linear": "linear", "relu": "ReLU"}
_LATE, _EARLY, _END = "last quarter", "second quarter of the layers", ", last quarter of the layers"
MEASURES = {
    "participation_ratio": "(sum s^2)^2 / sum s^4 of the pre-activations of a batch",
    "stable_rank": "sum s^2 / max s^2 of the pre-activations of a batch",
    "numerical_rank": f"number of s^2 above {_SHARE:g} of their mean, of the pre-activations of a batch",
}


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """One study: depth and widths stand for infinity."""
    settings = {**_SIZES[budget.name], "samples_per_unit": list(_SAMPLES), "num_measurements": _NUM_MEASUREMENTS}
    return (Study(name=_STUDY, function=f"{__name__}:ranks", settings=settings),)


def ranks(
    *,
    seed: int,
    depth: int,
    widths: Sequence[int],
    samples_per_unit: Sequence[float],
    num_measurements: int,
    draws: int,
) -> pd.DataFrame:
    """Return ranks of pre-activations and activations of nets at initialisation, layer by layer.

    a_l = W_l h_{l-1}, h_l = phi(a_l), or with BatchNorm h_l = phi(x-hat_l), x-hat_l = (a_l - mu) / sigma over the batch
    (eps 1e-5); phi linear or ReLU; W_ij ~ N(0, 1 / width); h_0 standard normal; float64. Both nets have the same
    weights. Without BatchNorm each layer's values are divided by their root mean square, which changes no rank and
    keeps 1000 layers from overflowing.

    Args:
        seed: of weights and inputs.
        depth: number of layers.
        widths: units of all layers, a net for each.
        samples_per_unit: batch sizes as multiples of the width. A batch of m samples has at most rank m.
        num_measurements: number of layers that are looked at, evenly spread.
        draws: nets that are drawn anew, with inputs of their own, in each of these settings.

    Returns:
        A row per net, `activation`, `samples_per_unit`, `width`, `draw` and layer looked at: `net` ("BatchNorm",
        "standard"), `layer` (from 1), the ranks of `rank_measures` for pre-activations (of BatchNorm x-hat) and, with
        `activation_` in front, for h.
    """
    rows = []
    every = max(depth // num_measurements, 1)
    for activation, samples, width, draw, normed in product(
        _NAMES, samples_per_unit, widths, range(draws), (True, False)
    ):
        # No two seeds share a net; the nets with and without BatchNorm do, so that they can be paired.
        random = torch.Generator().manual_seed(seed * draws + draw)
        inputs = torch.randn(int(samples * width), width, generator=random, dtype=torch.float64)
        layers = through(inputs, depth=depth, relu=activation == "relu", normed=normed, random=random)
        own = {"net": _BATCH if normed else _PLAIN, "activation": activation, "samples_per_unit": samples}
        for layer, (before, after) in enumerate(layers, start=1):
            if layer % every == 0:
                found = rank_measures(before) | {f"activation_{k}": v for k, v in rank_measures(after).items()}
                rows.append(own | {"width": width, "draw": draw, "layer": layer} | found)
    return pd.DataFrame(rows)


def through(
    inputs: Tensor, *, depth: int, relu: bool, normed: bool, random: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pre-activation (normalised, if normed) and activation of layer after layer, (samples, width)."""
    width, hidden = inputs.shape[1], inputs
    for _ in range(depth):
        values = hidden @ (torch.randn(width, width, generator=random, dtype=inputs.dtype) / width**0.5)
        if normed:
            values = values - values.mean(dim=0)
            values = values / (values.square().mean(dim=0) + _EPS).sqrt()
        else:
            values = _scaled(values)
        hidden = torch.relu(values) if relu else values
        yield values, hidden


def _scaled(values: Tensor) -> Tensor:
    """Values over their root mean square; a narrow ReLU net at times sends every sample to 0, and there it stays."""
    size = values.square().mean().sqrt()
    return values / size if size > 0 else values


def rank_measures(values: Tensor) -> dict[str, float]:
    """Return the three ranks of a matrix (samples, units), not centred; of a matrix of zeros all are 0.

    Source: the participation ratio is the quantity that Daneshmand et al. 2020 bound from below, as a lower bound of
    the numerical rank.

    Example:
        >>> rank_measures(torch.diag(torch.tensor([2.0, 1.0, 1.0])))["stable_rank"]
        1.5
    """
    squares = torch.linalg.svdvals(values).square()
    total = squares.sum()
    if not total > 0:
        return dict.fromkeys(MEASURES, 0.0)
    found = {
        "participation_ratio": total.square() / squares.square().sum(),
        "stable_rank": total / squares.max(),
        "numerical_rank": (squares > _SHARE * total / min(values.shape)).sum(),
    }
    return {name: float(number) for name, number in found.items()}


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Of the widest nets the ranks of the last layers and how far they fell; then how they grow with the width.

    Numbers of a seed are means over its draws and over layers: from one layer to the next, rank goes up and down.
    """
    rows = found.study(_STUDY)
    depth = rows["layer"].max()
    effects: list[Effect] = []
    for (activation, samples), own in rows.groupby(["activation", "samples_per_unit"], sort=False):
        setting = f"{_NAMES[str(activation)]}, {samples:g} samples per unit"
        late = own[own["layer"] > 0.75 * depth]
        widest = own["width"] == own["width"].max()
        effects += _at_the_end(late[widest.loc[late.index]], setting)
        effects += [_kept(own[widest], setting, depth=depth), _growth(late, setting)]
    return tuple(effects)


def _at_the_end(late: pd.DataFrame, setting: str) -> list[Effect]:
    """Ratios of the two nets by each measure, then the numbers themselves."""
    ranks_of = {measure: per_seed(late, measure, by=(), reduce="mean") for measure in MEASURES}
    ratios = [
        ratio(numbers, _BATCH, _PLAIN, measure=f"{measure}_ratio", meaning=MEASURES[measure] + _END, setting=setting)
        for measure, numbers in ranks_of.items()
    ]
    name = "participation_ratio"
    words = {"unit": "1", "setting": f"{setting}, {late['width'].iloc[0]} units", "meaning": MEASURES[name] + _END}
    activations = per_seed(late, f"activation_{name}", by=(), reduce="mean")
    told = words | {"meaning": "the same of the activations, not centred" + _END}
    return [
        *ratios,
        value(ranks_of[name], _PLAIN, measure="rank_without", **words),
        value(ranks_of[name], _BATCH, measure="rank_with", **words),
        value(activations, _BATCH, measure="rank_with_of_activations", **told),
    ]


def _kept(own: pd.DataFrame, setting: str, *, depth: int) -> Effect:
    """The rank of the last quarter of the layers over that of the second: a collapse that is only slower goes on."""
    name, layer = "participation_ratio", own["layer"]
    parts = {_LATE: layer > 0.75 * depth, _EARLY: (layer > 0.25 * depth) & (layer <= 0.5 * depth)}
    with_norm = own["net"] == _BATCH
    means = [
        per_seed(own.assign(net=part), name, by=(), reduce="mean", where=chosen & with_norm)
        for part, chosen in parts.items()
    ]
    told = f"{MEASURES[name]}, with BatchNorm"
    return ratio(pd.concat(means), _LATE, _EARLY, measure="rank_kept", meaning=told, setting=setting)


def _growth(late: pd.DataFrame, setting: str) -> Effect:
    """The exponent e of rank ~ width^e with BatchNorm."""
    exponents = width_exponents(late[late["net"] == _BATCH])
    told = f"slope of the logarithm of {MEASURES['participation_ratio']}, against that of the width"
    return value(exponents, _BATCH, measure="width_exponent", meaning=told + _END, unit="1", setting=setting)


def width_exponents(late: pd.DataFrame) -> pd.Series:
    """Return the least-squares slope of log participation ratio (its mean over layers) against log width, by seed."""
    means = late.groupby(["net", "seed", "width"])["participation_ratio"].mean().reset_index()
    found = {
        key: float(np.polyfit(np.log(own["width"]), np.log(own["participation_ratio"]), 1)[0])
        for key, own in means.groupby(["net", "seed"])
    }
    return pd.Series(found, dtype=float).rename_axis(["net", "seed"])


C31 = Claim(
    id="C31",
    studies=studies,
    evidence=evidence,
    rule=(
        *(
            above(f"{measure}_ratio", 2.0, why="twice as many directions are the least that counts")
            for measure in MEASURES
        ),
        below("rank_without", 2.0, why="1 is collapse; where two directions are left there was none to prevent"),
        above(
            "rank_kept", 0.9, why="a tenth is the smallest fall that counts: who only delays a collapse goes on falling"
        ),
        above(
            "width_exponent",
            0.25,
            why="half of the 1/2 that is proved as a lower bound for linear nets; 0 is a rank that no width saves",
        ),
    ),
    published="Without BatchNorm the rank falls to 1 with depth; with it, in linear nets, it stays of the order of the "
    "root of the width or above, however deep, and experiments show the same of ReLU nets (Daneshmand et al. 2020).",
    remark="Pre-activations of a batch of standard normal inputs; of BatchNorm x-hat, which is centred. The theorem is "
    "of linear nets with BatchNorm that divides without centring and with residual connections of small weight; here "
    "it is torch's BatchNorm in a plain net. With ReLU the rank depends on how many samples there are per unit, so "
    "few and many are both asked. After a ReLU all values are positive, so that a matrix which is not centred has one "
    "large direction whatever the rest does: of Gaussian x-hat its participation ratio is at most about 10. Says "
    "nothing of trained nets.",
)
