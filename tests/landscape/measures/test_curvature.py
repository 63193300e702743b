"""Hessian products and eigenvalues against the dense Hessian in float64, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ics.landscape import Objective, make_transition
from ics.landscape.measures.curvature import curvature
from ics.landscape.measures.hessian import HessianAt


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()


def make_batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(9, 4, generator=generator, dtype=torch.float64), torch.arange(9) % 3


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def dense_hessian(model, batch):
    """The whole matrix by autograd.functional, over the concatenated parameters."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    sizes = [value.numel() for value in parameters.values()]

    def loss_of(flat):
        pieces = dict(zip(parameters, torch.split(flat, sizes), strict=True))
        values = {name: pieces[name].reshape(parameters[name].shape) for name in parameters}
        # batch statistics written out, so that the oracle shares nothing with the layer
        h = F.linear(batch[0], values["0.weight"], values["0.bias"])
        h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt() * values["1.weight"] + values["1.bias"]
        return F.cross_entropy(F.linear(torch.tanh(h), values["3.weight"], values["3.bias"]), batch[1])

    flat = torch.cat([value.flatten() for value in parameters.values()])
    functional = torch.autograd.functional
    return functional.hessian(loss_of, flat), functional.jacobian(loss_of, flat)


def transition_of(model, batch, *, loss=loss_fn, rate=0.1, accumulate=False):
    objective = Objective(model, loss, batch, accumulate=accumulate)
    here = objective.parameters
    return make_transition(objective, before=here, after=here, learning_rate=rate)


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def test_products_equal_those_of_the_dense_matrix():
    model, batch = small_net(), make_batch()
    matrix, gradient = dense_hessian(model, batch)
    objective = Objective(model, loss_fn, batch)
    generator = torch.Generator().manual_seed(2)
    vector = {
        name: torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in objective.parameters.items()
    }
    with HessianAt(objective, objective.parameters) as hessian:
        torch.testing.assert_close(flat(hessian.gradient), gradient, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(flat(hessian.product(vector)), matrix @ flat(vector), rtol=1e-9, atol=1e-12)
        part = hessian.product({"3.bias": vector["3.bias"]}, of=["0.weight"])
    rows = matrix[:20, -3:]  # 0.weight comes first, 3.bias last
    torch.testing.assert_close(part["0.weight"].flatten(), rows @ vector["3.bias"], rtol=1e-9, atol=1e-12)


def test_eigenvalues_and_sharpness_equal_those_of_the_dense_matrix():
    model, batch = small_net(), make_batch()
    matrix, gradient = dense_hessian(model, batch)
    row = curvature(transition_of(model, batch), num_eigenvalues=3, tolerance=1e-8).columns
    np.testing.assert_allclose(row["hessian_eigenvalues"][0], torch.linalg.eigvalsh(matrix).flip(0)[:3], rtol=1e-6)
    expected = gradient @ matrix @ gradient / (gradient @ gradient)
    assert float(row["batch_sharpness"][0]) == pytest.approx(float(expected), rel=1e-9)
    assert row["two_over_lr"] == [20.0]


def test_a_quadratic_has_its_own_eigenvalues():
    scale = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    transition = transition_of(model, None, loss=lambda model, _: 0.5 * (scale * model.weight**2).sum())
    row = curvature(transition, num_eigenvalues=2).columns
    np.testing.assert_allclose(row["hessian_eigenvalues"][0], [7.0, 2.0], rtol=1e-12)


def test_a_negative_largest_eigenvalue_is_no_mistake():
    model = nn.Linear(40, 1, bias=False).double()
    row = curvature(transition_of(model, None, loss=lambda model, _: -(model.weight**2).sum())).columns
    assert row["hessian_max_eigenvalue"][0] == pytest.approx(-2.0, rel=1e-3)


def test_micro_batches_add_up():
    model, (x, y) = small_net(), make_batch()
    model[1].eval()  # batch statistics would differ between the parts
    whole = transition_of(model, (x, y), loss=lambda model, batch: loss_fn(model, batch) * len(batch[0]))
    parts = transition_of(
        model, [(x[:4], y[:4]), (x[4:], y[4:])], accumulate=True, loss=lambda model, b: loss_fn(model, b) * len(b[0])
    )
    a, b = (curvature(each, tolerance=1e-9).columns["hessian_max_eigenvalue"][0] for each in (whole, parts))
    assert a == pytest.approx(b, rel=1e-7)


def test_a_loss_without_curvature_is_zero_and_not_an_error():
    row = curvature(transition_of(nn.Linear(3, 2), torch.ones(4, 3), loss=lambda model, x: model(x).sum())).columns
    assert row["hessian_max_eigenvalue"] == [0.0]
    assert float(row["batch_sharpness"][0]) == 0


def test_what_is_undefined_is_null_with_a_reason():
    zero = curvature(transition_of(nn.Linear(3, 2), torch.zeros(4, 3), loss=lambda model, x: model.weight.mul(0).sum()))
    assert zero.columns["batch_sharpness"] == [None]
    assert zero.columns["null_reason"] == ["the gradient is zero"]
    nan = curvature(transition_of(nn.Linear(3, 2), torch.full((4, 3), torch.nan), loss=lambda model, x: model(x).sum()))
    assert nan.columns["hessian_max_eigenvalue"] == [None]
    assert nan.columns["null_reason"] == ["the gradient is not finite"]


def test_in_place_activations_dropout_and_parameters_are_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 30), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(30, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    transition = transition_of(model, (make_batch()[0].float(), make_batch()[1]))
    values = [curvature(transition).columns["hessian_max_eigenvalue"][0] for _ in range(2)]
    assert values[0] == values[1]  # the same masks
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
