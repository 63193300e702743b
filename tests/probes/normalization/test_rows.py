"""The table `normalization`: Theorem 4.1 as an equality, and x-hat of every normalisation against numpy."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.probes.nets import residual, residual_by_hand
from tests.probes.rows import activations, assert_row, gradients, normalizations, probed

SHAPES = {nn.BatchNorm1d: (7, 3), nn.BatchNorm2d: (2, 3, 4, 5), nn.BatchNorm3d: (2, 3, 2, 3, 2)}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize("affine", [True, False])
def test_theorem_4_1_is_an_equality(kind: type[nn.Module], eps: float, affine: bool) -> None:
    torch.manual_seed(0)
    shape = SHAPES[kind]
    norm: Any = kind(3, eps=eps, affine=affine).double()
    if affine:
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.uniform_(norm.bias, -2, 2)
    y = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(shape, dtype=torch.float64)
    loss_of = lambda: (torch.tanh(norm(y)) * weights).sum()  # noqa: E731
    (row,) = normalizations(probed(norm, lambda: loss_of().backward())).values()

    # by hand, channel by channel, in plain formulas
    values = np.moveaxis(y.detach().numpy(), 1, 0).reshape(3, -1)
    m = values.shape[1]
    sigma = np.sqrt(values.var(1) + eps)
    hat = (values - values.mean(1, keepdims=True)) / sigma[:, None]
    gamma = norm.weight.detach().numpy() if affine else np.ones(3)
    beta = norm.bias.detach().numpy() if affine else np.zeros(3)
    outer = np.moveaxis(weights.numpy(), 1, 0).reshape(3, -1)
    g = outer * (1 - np.tanh(gamma[:, None] * hat + beta[:, None]) ** 2)
    scale = gamma**2 / sigma**2
    along, ones = (g * hat).sum(1), g.sum(1)
    assert row["output_gradient_squared"] == pytest.approx((g**2).sum(), rel=1e-12)
    assert row["rescaled_gradient_squared"] == pytest.approx((scale * (g**2).sum(1)).sum(), rel=1e-12)
    assert row["mean_term"] == pytest.approx((scale * ones**2 / m).sum(), rel=1e-10)
    coefficient = 2 / m - (hat**2).sum(1) / m**2
    assert row["normalized_term"] == pytest.approx((scale * coefficient * along**2).sum(), rel=1e-10)

    measured = torch.autograd.grad(loss_of(), y)[0].square().sum().item()
    assert row["input_gradient_squared"] == pytest.approx(measured, rel=1e-12)
    assert row["theorem_error"] < 1e-10
    if eps == 0.5:  # the printed coefficient, 1/m, would be seen
        printed = row["rescaled_gradient_squared"] - row["mean_term"] - (scale * along**2 / m).sum()
        assert abs(printed - measured) / measured > 1e-4
    assert row["count"] == m
    np.testing.assert_allclose(row["channel_batch_mean"], values.mean(1))
    np.testing.assert_allclose(row["channel_batch_variance"], values.var(1))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_rows_of_a_residual_net(batch: int) -> None:
    net, x = residual(batch=batch)
    state = torch.get_rng_state()
    rows = normalizations(probed(net, lambda: (net(x) ** 2).sum().backward()))
    torch.set_rng_state(state)
    sites, output = residual_by_hand(net, x)
    wanted = [sites["stem", 0, "preactivation"], sites["conv", 0, "preactivation"]]
    oracle = torch.autograd.grad((output**2).sum(), wanted)

    assert list(rows) == [("stem", 0), ("conv", 0)]
    for row, norm, y, gradient in zip(rows.values(), (net.bn0, net.bn1), wanted, oracle, strict=True):
        assert (row["kind"], row["of_layer"], row["layer"]) == ("BatchNorm2d", row["layer"], row["of_layer"])
        assert row["input_gradient_squared"] == pytest.approx(float(gradient.square().sum()), rel=1e-10)
        assert row["theorem_error"] < 1e-10
        variance = y.var((0, 2, 3), correction=0)
        np.testing.assert_allclose(row["channel_batch_variance"], variance.detach())
        m = y.numel() // 3
        np.testing.assert_allclose(row["channel_running_variance"], 0.9 + 0.1 * variance.detach() * m / (m - 1))
        np.testing.assert_allclose(row["channel_running_mean"], 0.1 * y.mean((0, 2, 3)).detach())
        np.testing.assert_array_equal(row["channel_weight"], norm.weight.detach())
        np.testing.assert_array_equal(row["channel_bias"], norm.bias.detach())
    stem, conv = rows.values()
    assert stem["bias_before_gradient_norm"] < 1e-14  # a bias in front of BatchNorm has no gradient
    assert stem["null_reason"] is None
    assert conv["bias_before_gradient_norm"] is None
    assert conv["null_reason"] == "the layer in front has no bias"


def test_what_a_shortcut_sends_back_is_not_the_normalisations() -> None:
    class Preactivated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.BatchNorm1d(3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(torch.relu(self.norm(x)))

    torch.manual_seed(0)
    net = Preactivated().double()
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    probes = probed(net, lambda: (net(x) ** 2).sum().backward())
    (row,) = normalizations(probes).values()
    assert row["theorem_error"] < 1e-10
    assert row["of_layer"] is None
    assert row["null_reason"] == "it follows no layer directly"
    assert x.grad is not None
    whole = gradients(probes)["norm", 0, "input"]["gradient_norm"]  # the site's dL/d(input) is the whole one
    assert whole == pytest.approx(x.grad.norm().item())
    assert whole**2 != pytest.approx(row["input_gradient_squared"], rel=1e-2)
    assert ("norm", 0, "activation") in activations(probes)


def test_micro_batches_pool_the_statistics_and_add_the_terms() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    batches = [torch.randn(size, 2, dtype=torch.float64) for size in (4, 3)]
    terms = [
        next(iter(normalizations(probed(net, lambda x=x: (net(x) ** 3).sum().backward())).values())) for x in batches
    ]
    (row,) = normalizations(probed(net, lambda: [(net(x) ** 3).sum().backward() for x in batches])).values()
    for name in ("rescaled_gradient_squared", "mean_term", "normalized_term", "input_gradient_squared"):
        assert row[name] == pytest.approx(sum(term[name] for term in terms), rel=1e-12)
    assert row["theorem_error"] < 1e-10
    y = net[0](torch.cat(batches)).detach()
    assert row["count"] == 7
    np.testing.assert_allclose(row["channel_batch_mean"], y.mean(0))
    np.testing.assert_allclose(row["channel_batch_variance"], y.var(0, correction=0))


def test_eval_mode_uses_running_statistics_and_has_no_theorem() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    net(torch.randn(5, 2, dtype=torch.float64) + 1)
    net.eval()
    x = torch.randn(4, 2, dtype=torch.float64)
    probes = probed(net, lambda: net(x).sum().backward())
    (row,) = normalizations(probes).values()
    assert (row["mean_term"], row["theorem_error"]) == (None, None)
    assert "eval mode" in row["null_reason"]
    np.testing.assert_allclose(row["channel_batch_mean"], net[0](x).mean(0).detach())
    np.testing.assert_array_equal(row["channel_running_mean"], net[1].running_mean)
    hat = (net[0](x) - net[1].running_mean) / (net[1].running_var + 1e-5).sqrt()
    assert_row(activations(probes)["0", 0, "normalized"], hat, axis=1)


@pytest.mark.parametrize(
    ("norm", "x", "hat"),
    [
        (nn.LayerNorm(3), torch.randn(4, 5, 3), lambda x: _standard(x, (-1,))),
        (nn.LayerNorm((5, 3)), torch.randn(4, 5, 3), lambda x: _standard(x, (-2, -1))),
        (nn.GroupNorm(1, 3), torch.randn(4, 3, 5), lambda x: _standard(x, (1, 2))),
        (nn.InstanceNorm2d(3, affine=True), torch.randn(4, 3, 5, 2), lambda x: _standard(x, (2, 3))),
        (nn.InstanceNorm1d(3, affine=True), torch.randn(3, 5), lambda x: _standard(x, (1,))),
        (
            nn.RMSNorm(3, eps=1e-5),
            torch.randn(4, 5, 3),
            lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt(),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_normalisations(norm: Any, x: Tensor, hat: Any) -> None:
    norm, x = norm.double(), x.double().requires_grad_()
    nn.init.uniform_(norm.weight, 0.5, 2)
    probes = probed(norm, lambda: (norm(x) ** 3).sum().backward())
    rows, sites, grads = normalizations(probes), activations(probes), gradients(probes)
    axis = {nn.LayerNorm: -1, nn.RMSNorm: -1, nn.GroupNorm: 1, nn.InstanceNorm2d: 1, nn.InstanceNorm1d: 0}[type(norm)]
    assert [key[2] for key in sites] == ["input", "normalized", "scaled"]
    assert_row(sites["(root)", 0, "normalized"], hat(x), axis=axis)
    assert_row(sites["(root)", 0, "scaled"], norm(x), axis=axis)

    gamma = norm.weight if axis == -1 else norm.weight.view(-1, *[1] * (x.ndim - axis - 1))
    shifted = torch.zeros_like(x, requires_grad=True)
    bias = (
        0
        if norm.__dict__["_parameters"].get("bias") is None
        else norm.bias
        if axis == -1
        else norm.bias.view(gamma.shape)
    )
    ((hat(x.detach()) + shifted) * gamma + bias).pow(3).sum().backward()
    assert shifted.grad is not None
    assert_row(grads["(root)", 0, "normalized"], shifted.grad, axis=axis)

    (row,) = rows.values()
    assert (row["kind"], row["count"], row["mean_term"]) == (type(norm).__name__, None, None)
    assert "only BatchNorm" in row["null_reason"]
    assert row["output_gradient_squared"] == pytest.approx(((3 * norm(x) ** 2) ** 2).sum().item())
    np.testing.assert_array_equal(row["channel_weight"], norm.weight.detach().reshape(-1))


class NoBN(nn.Module):
    """No normalisation, whatever its name says."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Whitening(nn.Module):
    """A normalisation, whatever its name says: it keeps a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) * self.scale


class NoisyBatchNorm(nn.BatchNorm1d):
    """A BatchNorm with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def test_a_name_makes_no_normalisation() -> None:
    net = nn.Sequential(OrderedDict(layer=nn.Linear(2, 3), bn=NoBN(), act=nn.ReLU()))
    probes = probed(net, lambda: net(torch.randn(4, 2)).sum().backward())
    assert normalizations(probes) == {}
    assert [key for key in activations(probes) if key[0] == "bn" or key[2] in ("normalized", "scaled")] == []


@pytest.mark.parametrize("norm", [Whitening(), NoisyBatchNorm(3)], ids=lambda norm: type(norm).__name__)
def test_an_unknown_formula_has_an_output_but_no_x_hat(norm: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(2, 3), norm).double()
    x = torch.randn(4, 2, dtype=torch.float64)
    probes = probed(net, lambda: net(x).sum().backward())
    rows = activations(probes)
    assert rows["0", 0, "normalized"]["count"] is None
    assert f"x-hat of {type(norm).__name__} is not known" in rows["0", 0, "normalized"]["null_reason"]
    assert_row(rows["0", 0, "scaled"], net(x), axis=1)
    (row,) = normalizations(probes).values()
    assert (row["kind"], row["theorem_error"], row["of_layer"]) == (type(norm).__name__, None, "0")


def test_loss_scale_is_taken_out_of_the_terms() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    (plain,) = normalizations(probed(net, lambda: net(x).sum().backward())).values()
    (scaled,) = normalizations(probed(net, lambda: (8 * net(x).sum()).backward(), loss_scale=8.0)).values()
    for name in ("output_gradient_squared", "mean_term", "normalized_term", "input_gradient_squared"):
        assert scaled[name] == plain[name]


def test_two_normalisations_of_one_tensor_and_one_of_two() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 3)
            self.norm, self.other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            first = self.a(x)
            return self.norm(first) + self.other(first) + self.norm(self.b(x))

    net = Shared()
    rows = normalizations(probed(net, lambda: net(torch.randn(4, 2)).sum().backward()))
    assert {key: row["of_layer"] for key, row in rows.items()} == {("a", 0): "a", ("other", 0): None, ("b", 0): "b"}


def test_statistics_in_autocast_are_not_rounded() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    x = torch.randn(64, 4) + 100
    with torch.autocast("cpu", torch.bfloat16):
        rows = activations(probed(net, lambda: net(x).sum().backward()))
    np.testing.assert_allclose(rows["0", 0, "input"]["channel_mean"], x.double().mean(0), rtol=1e-7)
    np.testing.assert_allclose(rows["0", 0, "input"]["channel_m2"], x.double().var(0, correction=0), rtol=1e-5)


def _standard(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / (((x - mean) ** 2).mean(axes, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize(("graph", "reason"), [(True, "need no gradient"), (False, "no backward pass")])
def test_a_frozen_net_has_no_gradient_and_a_pass_without_a_graph_has_none_yet(graph: bool, reason: str) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).requires_grad_(False)
    with torch.set_grad_enabled(graph):
        (row,) = normalizations(probed(net, lambda: net(torch.randn(5, 2)))).values()
    assert row["output_gradient_squared"] is None
    assert reason in row["null_reason"]
