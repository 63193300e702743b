from __future__ import annotations

import pytest
import torch
from torch import nn

from ics.landscape import Objective
from tests.landscape.nets import NETS, cross_entropy, take_step


@pytest.mark.parametrize("name", NETS)
def test_the_loss_that_was_trained_is_recognised(name):
    taken = take_step(name)
    agreement = taken.objective().check(taken.used, at=taken.before)
    assert (agreement.verdict, agreement.difference) == ("equal", 0)
    assert agreement.deterministic
    assert agreement.warning is None


def test_a_clipped_gradient_is_proportional():
    taken = take_step("residual")
    clipped = {name: 0.25 * gradient for name, gradient in taken.used.items()}
    agreement = taken.objective().check(clipped, at=taken.before)
    assert agreement.verdict == "proportional"
    assert agreement.scale == pytest.approx(0.25, rel=1e-6)
    assert "0.25 times" in agreement.describe()


@pytest.mark.parametrize("other", ["batch", "mode", "point", "sign", "missing"])
def test_another_loss_is_told_apart(other):
    taken = take_step("residual")
    where, used, batch = taken.before, taken.used, taken.batch
    if other == "batch":
        batch = (taken.batch[0].flip(0), taken.batch[1])
    elif other == "mode":
        taken.model.eval()
    elif other == "point":
        where = taken.after
    elif other == "sign":
        used = {name: -gradient for name, gradient in used.items()}
    else:
        used = {**used, "conv1.weight": None}
    agreement = taken.objective(batch=batch).check(used, at=where)
    assert agreement.verdict == "different"
    assert "differs from the one training used" in agreement.warning


def test_a_model_that_draws_from_elsewhere_is_not_deterministic():
    draws = iter([1.0, 2.0, 3.0])
    model = nn.Linear(2, 1)
    objective = Objective(model, lambda model, x: model(x).sum() * next(draws), torch.ones(1, 2))
    agreement = objective.check({"weight": torch.ones(1, 2), "bias": torch.ones(1)})
    assert not agreement.deterministic
    assert agreement.repeated_difference == pytest.approx(1.0)
    assert "not deterministic under replay" in agreement.warning


def test_gradients_that_are_not_finite_do_not_compare():
    model = nn.Linear(2, 1)
    objective = Objective(model, lambda model, x: model(x).sum(), torch.full((1, 2), float("inf")))
    agreement = objective.check({"weight": torch.ones(1, 2), "bias": torch.ones(1)})
    assert agreement.verdict == "undefined"
    assert agreement.warning is None
    assert "not finite" in agreement.describe()


def test_by_default_the_present_parameters_are_compared():
    taken = take_step("reused")
    gradients = taken.objective()(taken.after).gradients
    assert taken.objective().check(gradients).verdict == "equal"
    assert Objective(taken.model, cross_entropy, taken.batch).check(gradients).verdict == "different"  # other dropout
