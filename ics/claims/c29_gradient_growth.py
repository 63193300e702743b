"""C29: by which factor gradients grow per layer at initialisation, with ReLU and BatchNorm, and with ReLU alone."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import torch
from torch import Tensor

from ics.claims.method.budgets import ClaimBudget
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, value
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import within
from ics.claims.method.study import Study

PREDICTED = math.sqrt(math.pi / (math.pi - 1))
_STUDY = "growth"
_TOLD = "growth of ||dL/dh|| per layer, towards the input"
_SETTINGS = {
    "quick": {"depth": 20, "width": 512, "batch_size": 512},
    "cpu": {"depth": 30, "width": 1024, "batch_size": 1024},
    "paper": {"depth": 50, "width": 2048, "batch_size": 2048},
}


def growth(*, seed: int, depth: int, width: int, batch_size: int) -> pd.DataFrame:
    """Return ||dL/dh_l|| / ||dL/dh_{l+1}|| of the activations h_l of a ReLU net at initialisation, with and without BN.

    h_{l+1} = relu(BN(W h_l)) or relu(W h_l), W_ij ~ N(0, 2 / width), h_0 and dL/dh_depth standard normal, float64.

    Returns:
        A row per net ("BatchNorm", "standard") and layer l: `net`, `layer_index`, `growth`.

    Source: Yang et al. 2019: sqrt(pi / (pi - 1)) for infinite width and batch. Cost: `depth` layers of
    `width` units, forwards and backwards, twice.
    """
    return pd.concat(
        [
            _growth(batch_norm, seed=seed, depth=depth, width=width, batch_size=batch_size).assign(net=net)
            for net, batch_norm in (("BatchNorm", True), ("standard", False))
        ],
        ignore_index=True,
    )


def _growth(batch_norm: bool, *, seed: int, depth: int, width: int, batch_size: int) -> pd.DataFrame:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    hidden = [normal(batch_size, width).requires_grad_()]
    for _ in range(depth):
        preactivation = hidden[-1] @ (normal(width, width) * math.sqrt(2 / width))
        if batch_norm:
            centred = preactivation - preactivation.mean(dim=0)
            preactivation = centred / centred.square().mean(dim=0).sqrt()
        hidden.append(torch.relu(preactivation))
    gradients = torch.autograd.grad(hidden[-1], hidden, normal(batch_size, width))
    norms = [float(gradient.norm()) for gradient in gradients]
    ratios = [before / after for before, after in itertools.pairwise(norms)]
    return pd.DataFrame({"layer_index": range(depth), "growth": ratios})


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """One study: width and batch stand for infinity, so larger budgets come closer to the limit."""
    return (Study(name=_STUDY, function=f"{__name__}:growth", settings=_SETTINGS[budget.name]),)


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Geometric mean of the growth over layers; the first two and the last two, which see random ends, are left out."""
    rows = found.study(_STUDY)
    inner = rows[rows["layer_index"].between(2, rows["layer_index"].max() - 2)]
    logs = inner.assign(log_growth=inner["growth"].map(math.log))
    means = per_seed(logs, "log_growth", by=(), reduce="mean").map(math.exp)
    return (
        value(means, "BatchNorm", measure="growth", meaning=_TOLD, unit="1"),
        value(means, "standard", measure="growth_without", meaning=_TOLD, unit="1"),
    )


C29 = Claim(
    id="C29",
    studies=studies,
    evidence=evidence,
    rule=(
        within("growth", PREDICTED - 0.02, PREDICTED + 0.02, why="the limit is 1.2110; finite width and batch deviate"),
        within("growth_without", 0.97, 1.03, why="He's initialisation keeps the norm in the limit"),
    ),
    published="sqrt(pi / (pi - 1)) = 1.2110 per layer in the limit of infinite width and batch (Yang et al. 2019).",
)
