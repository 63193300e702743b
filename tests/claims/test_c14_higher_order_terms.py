"""C14: the study against polynomials and torch's own BatchNorm, and verdicts on made-up errors."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ics.claims import BUDGETS, Evidence, base, weigh
from ics.claims.c14_higher_order_terms import C14, STEPS, chain_losses, first_order_errors, higher_order

DEPTHS, SEEDS = (2, 4, 8, 16, 32), range(4)
X = torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def weights(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def step_size(step_by: str, squared_norm: float) -> float:
    """The learning rate that makes a step of 0.1, of length 0.1, or of a promised decrease of 0.1."""
    return {"rate": 0.1, "length": 0.1 / math.sqrt(squared_norm), "promise": 0.1 / squared_norm}[step_by]


@pytest.mark.parametrize("step_by", STEPS)
def test_a_linear_chain_is_a_polynomial(step_by: str) -> None:
    # L = -m w_1 ... w_l with m = mean(x^2); dL/dw_i = L / w_i.
    w = np.array([0.8, -1.3, 1.1, 0.9, -1.2])
    loss = -float(X.square().mean()) * w.prod()
    gradient = loss / w
    squared_norm = float((gradient**2).sum())
    rate = step_size(step_by, squared_norm)
    moved = -float(X.square().mean()) * (w - rate * gradient).prod()
    expected = abs(moved - loss + rate * squared_norm) / (rate * squared_norm)
    found = first_order_errors([weights(*w)], X, kind="linear")[step_by]
    assert found.tolist() == pytest.approx([expected], rel=1e-10)


def test_the_second_order_term_is_the_one_of_the_book() -> None:
    # With weights 1 the step leaves (1 - eta g)^l: the error is (l - 1) eta g / 2 + O((eta g)^2), and grows with l.
    x = torch.ones(4, dtype=torch.float64) * 0.1  # g = -0.01
    errors = [float(first_order_errors([weights(*[1.0] * depth)], x, kind="linear")["rate"]) for depth in (2, 5, 11)]
    assert errors == pytest.approx([number / 2 * 0.1 * 0.01 for number in (1, 4, 10)], rel=1e-2)


@pytest.mark.parametrize("depth", [2, 3, 9])
def test_a_linear_chain_with_batch_norm_is_bilinear_in_its_last_layers_whatever_the_depth(depth: int) -> None:
    lower = [0.7, -1.4, 1.2, 0.6, -0.9, 1.1, 0.5, 1.3][: depth - 1]
    gamma, beta, last = 1.5, 0.3, -0.8
    parameters = [
        weights(*lower, last),
        weights(*[1.2] * (depth - 2), gamma),
        weights(*[0.4] * (depth - 2), beta),
    ]
    sign = math.copysign(1.0, float(np.prod(lower)))
    hat = sign * float(X.std(correction=0))  # mean of x x-hat
    mean = float(X.mean())
    # L = -w (gamma s sigma + beta mean(x))
    slope = np.array([-(gamma * hat + beta * mean), -last * hat, -last * mean])
    before = last * slope[0]
    w, g, b = np.array([last, gamma, beta]) - 0.1 * slope
    actual = -w * (g * hat + b * mean) - before
    promised = -0.1 * float((slope**2).sum())
    found = first_order_errors(parameters, X, kind="linear")["rate"]
    assert found.tolist() == pytest.approx([abs(actual - promised) / abs(promised)], rel=1e-8)


def test_a_chain_is_the_net_that_torch_would_build() -> None:
    number = 4
    w = torch.tensor([[0.8, -1.3, 1.1, 0.9, -1.2]], dtype=torch.float64)
    gamma, beta = torch.rand(1, number, dtype=torch.float64) + 0.5, torch.rand(1, number, dtype=torch.float64)
    modules: list[nn.Module] = []
    for place in range(number):
        linear = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        norm = nn.BatchNorm1d(1, eps=1e-15, dtype=torch.float64)  # torch refuses 0
        with torch.no_grad():
            linear.weight.copy_(w[:, place : place + 1])
            norm.weight.copy_(gamma[:, place])
            norm.bias.copy_(beta[:, place])
        modules += [linear, norm, nn.Tanh()]
    model = nn.Sequential(*modules)
    expected = -(X * w[0, -1] * model(X[:, None])[:, 0].detach()).mean()
    assert float(chain_losses([w, gamma, beta], X, kind="tanh")) == pytest.approx(float(expected), rel=1e-11)


def test_chains_that_are_measured_together_are_measured_apart() -> None:
    together = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = first_order_errors([together], X, kind="tanh")
    for number in range(6):
        alone = first_order_errors([together[number : number + 1]], X, kind="tanh")
        assert {name: float(alone[name]) for name in STEPS} == pytest.approx(
            {name: float(found[name][number]) for name in STEPS}, rel=1e-10
        )


def test_the_study_has_a_row_per_net_kind_depth_and_step() -> None:
    rows = higher_order(seed=0, depths=[2, 3], num_draws=5, batch_size=16)
    assert len(rows) == 2 * 2 * 2 * 3
    assert rows["error"].notna().all()
    pd.testing.assert_frame_equal(rows, higher_order(seed=0, depths=[2, 3], num_draws=5, batch_size=16))


def made_up(*, growth: float, tamed: float) -> Evidence:
    """Errors that grow by `growth` from the shallowest chain to the deepest; BatchNorm's are `tamed` times as large."""
    study, line = [], []
    for seed, (place, depth) in product(SEEDS, enumerate(DEPTHS)):
        error = 0.05 * growth ** (place / (len(DEPTHS) - 1)) * (1 + 0.01 * seed)
        study += [
            {"net": net, "kind": kind, "depth": depth, "step_by": step_by, "seed": seed, "error": error * factor}
            for net, factor in (("standard", 1.0), ("BatchNorm", tamed))
            for kind in ("linear", "tanh")
            for step_by in STEPS
        ]
    nets = {"standard, chain of 2": 1.0, "standard, chain": growth, "BatchNorm, chain": growth * tamed}
    for seed, (net, factor), step, eta in product(SEEDS, nets.items(), (0, 10), (0.0, 0.09, 0.4)):
        error = 0.2 * factor * (1 + 0.01 * seed) * (eta / 0.09)
        line.append(
            {"net": net, "seed": seed, "step": step, "direction": "gradient", "draw": 0, "eta": eta, "loss": 1.0}
            | {"learning_rate": 0.1, "taylor_error": error if eta else math.nan}
        )
    steps = [{"net": net, "seed": seed, "step": 10, "loss": 2.0} for net, seed in product(nets, SEEDS)]
    tables = {"gradient_line": pd.DataFrame(line), "steps": pd.DataFrame(steps)}
    return Evidence.of_frames(tables, studies={"higher_order": pd.DataFrame(study)})


@pytest.mark.parametrize(
    ("growth", "tamed", "outcome"),
    [(5.0, 0.1, "supported"), (0.5, 2.0, "contradicted"), (5.0, 2.0, "mixed"), (0.5, 0.1, "mixed")],
)
def test_growth_and_taming(growth: float, tamed: float, outcome: str) -> None:
    effects, verdict = weigh(C14, made_up(growth=growth, tamed=tamed))
    assert verdict.outcome == outcome
    ratios = [effect for effect in effects if effect.scale == "ratio"]
    assert len(ratios) == 2 * 2 * 3 + 2
    for effect in ratios:
        expected = growth if effect.measure.startswith("growth") else tamed
        assert effect.numbers == pytest.approx([expected] * len(SEEDS))


def test_a_net_that_diverged_was_not_tamed() -> None:
    found = made_up(growth=5.0, tamed=0.1)
    line = found.table("gradient_line")
    line.loc[line["net"] == "BatchNorm, chain", ["loss", "taylor_error"]] = math.nan
    tables = {"gradient_line": line, "steps": found.table("steps")}
    effects, verdict = weigh(C14, Evidence.of_frames(tables, studies=found.studies))
    assert {effect.measure: effect.numbers for effect in effects}["tamed_in_training"] == (math.inf,) * 4
    assert verdict.outcome != "supported"


def test_it_trains_the_shared_chains_and_one_more() -> None:
    quick = BUDGETS["quick"]
    shared = (base(quick, "chain"), base(quick, "chain", norm="batch"))
    *first, shallow = C14.nets(quick)
    assert tuple(first) == shared
    assert shallow.hidden == (1, 1)
    assert shallow.learning_rate == shared[0].learning_rate
