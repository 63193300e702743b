"""Every normalisation against its formula in numpy: forward, backward, running averages, eval mode, state_dict."""

from __future__ import annotations

import doctest
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ics.errors import SelectionError, UsageError
from ics.experiments.nets.norms import (
    NORMS,
    DetachedBatchNorm,
    LpNorm,
    PopulationNorm,
    catalogue,
    make_norm,
    norm_named,
)
from tests.experiments.nets import norm_oracles as oracles

CHANNELS = 64
SHAPES = {2: (9, CHANNELS), 4: (3, CHANNELS, 4, 5)}
DETERMINISTIC = [name for name in NORMS if name not in ("none", "noisy-batch")]
OWN = ("l1", "l2", "linf", "batch-detached-mean", "batch-detached", "population")
CASES = [(name, ndim) for name in DETERMINISTIC for ndim in SHAPES if (name, ndim) != ("instance", 2)]


def made(name: str, ndim: int, *, channels: int = CHANNELS) -> nn.Module:
    """A float64 module whose gamma and beta, where it has them, are no ones and zeros."""
    module = make_norm(name, channels, ndim=ndim).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5)
    return module


def batch(ndim: int, seed: int = 0) -> Tensor:
    """Channels of different mean and scale, so that no two axes can be taken for each other."""
    generator = torch.Generator().manual_seed(seed)
    shape = SHAPES[ndim]
    broadcast = (1, -1) + (1,) * (ndim - 2)
    mean, scale = (torch.linspace(low, high, CHANNELS).double().view(broadcast) for low, high in ((-2, 3), (0.2, 4)))
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale + mean


def affine(module: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if weight is None or bias is None:
        return np.ones(CHANNELS), np.zeros(CHANNELS)
    return weight.detach().numpy(), bias.detach().numpy()


@pytest.mark.parametrize(("name", "ndim"), CASES)
def test_forward_and_backward_are_those_of_the_formula(name: str, ndim: int) -> None:
    module, x = made(name, ndim), batch(ndim).requires_grad_()
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    output = module(x)
    output.backward(g)
    wanted = oracles.expected(name, x.detach().numpy(), g.numpy(), *affine(module))
    found = {"output": output, "input_gradient": x.grad}
    if name != "batch-fixed-affine":
        found |= {"weight_gradient": module.weight.grad, "bias_gradient": module.bias.grad}
    for key, value in found.items():
        np.testing.assert_allclose(value.detach().numpy(), getattr(wanted, key), rtol=1e-10, atol=1e-11, err_msg=key)


def test_fixed_affine_has_nothing_to_learn_and_is_batchnorm() -> None:
    module, x = make_norm("batch-fixed-affine", CHANNELS, ndim=2).double(), batch(2)
    assert not list(module.parameters())
    torch.testing.assert_close(module(x), nn.BatchNorm1d(CHANNELS).double()(x), rtol=0, atol=0)


@pytest.mark.parametrize("ndim", SHAPES)
@pytest.mark.parametrize("name", [*oracles.OVER_THE_BATCH, "noisy-batch", *oracles.POWERS, "population"])
def test_running_averages_and_eval_mode(name: str, ndim: int) -> None:
    module = made(name, ndim)
    mean, spread = np.zeros(CHANNELS), np.ones(CHANNELS)
    p = oracles.POWERS.get(name)
    for seed in range(3):
        x = batch(ndim, seed).numpy()
        axes = oracles.channel_axes(x)
        of_batch = x.var(axes, ddof=1) if p is None else oracles.average_norm(p, x).reshape(-1)
        mean, spread = 0.9 * mean + 0.1 * x.mean(axes), 0.9 * spread + 0.1 * of_batch
        module(batch(ndim, seed))
    buffers = dict(module.named_buffers())
    assert buffers["num_batches_tracked"] == 3
    np.testing.assert_allclose(buffers["running_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(buffers["running_var" if p is None else "running_norm"], spread, rtol=1e-12)

    x, (gamma, beta) = batch(ndim, 7).numpy(), affine(module)
    scale = np.sqrt(spread + oracles.EPS) if p is None else spread
    broadcast = [oracles.per_channel(value, x) for value in (mean, scale, gamma, beta)]
    wanted = (x - broadcast[0]) / broadcast[1] * broadcast[2] + broadcast[3]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    np.testing.assert_allclose(module.eval()(batch(ndim, 7)).detach(), wanted, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("ndim", SHAPES)
def test_population_normalises_by_the_steps_before_alone(ndim: int) -> None:
    module = made("population", ndim)
    first, second = batch(ndim, 0), (2 * batch(ndim, 1) - 3).requires_grad_()
    module(first)
    mean, variance = module.running_mean.clone(), module.running_var.clone()
    output = module(second)
    output.sum().backward()
    shape = (1, -1) + (1,) * (ndim - 2)
    factor = (module.weight.detach() / (variance + module.eps).sqrt()).view(shape)
    wanted = factor * (second.detach() - mean.view(shape)) + module.bias.detach().view(shape)
    torch.testing.assert_close(output.detach(), wanted)
    torch.testing.assert_close(second.grad, factor.expand_as(second))
    assert not torch.equal(module.running_mean, mean)
    assert all(not buffer.requires_grad for buffer in module.buffers())


@pytest.mark.parametrize("ndim", SHAPES)
@pytest.mark.parametrize("name", ["batch-detached-mean", "batch-detached"])
def test_detached_gradients_are_those_of_constants(name: str, ndim: int) -> None:
    module, x = made(name, ndim), batch(ndim).requires_grad_()
    shape, axes = (1, -1) + (1,) * (ndim - 2), (0, *range(2, ndim))
    mu = x.detach().mean(axes, keepdim=True)
    variance = (x - mu).pow(2).mean(axes, keepdim=True)
    if name == "batch-detached":
        variance = variance.detach()
    formula = (x - mu) / (variance + 1e-5).sqrt() * module.weight.view(shape) + module.bias.view(shape)
    plain = nn.functional.batch_norm(x, None, None, module.weight, module.bias, training=True)
    inputs = (x, module.weight, module.bias)
    losses = [z.pow(3).sum() for z in (module(x), formula, plain)]
    found, wanted, plain_gradient = (torch.autograd.grad(loss, inputs) for loss in losses)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(losses[0], losses[2])  # the same values as BatchNorm's ...
    assert not torch.allclose(found[0], plain_gradient[0], rtol=0.1)  # ... but not the same gradient


def test_the_bias_in_front_of_a_detached_mean_grows_while_the_loss_stays() -> None:
    """Ioffe & Szegedy 2015, sec. 2: a step on b changes neither x - mu nor the loss, so it comes again and again."""
    torch.manual_seed(0)
    norm = make_norm("batch-detached-mean", 3, ndim=2).double()
    x, target, b = torch.randn(40, 3).double(), torch.rand(3).double() + 0.5, torch.zeros(3).double().requires_grad_()
    losses, sizes = [], []
    for _ in range(50):
        loss = (norm(x + b) - target).pow(2).mean()
        (gradient,) = torch.autograd.grad(loss, b)
        with torch.no_grad():
            b -= 0.1 * gradient
        losses.append(loss.item())
        sizes.append(b.abs().sum().item())
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)
    np.testing.assert_allclose(np.diff(sizes), sizes[0], rtol=1e-9)


@pytest.mark.parametrize(("name", "p"), oracles.POWERS.items())
def test_lp_ignores_scale_but_not_shift(name: str, p: float) -> None:
    x = batch(2)
    module = LpNorm(CHANNELS, p=p, eps=0).double()
    torch.testing.assert_close(module(3 * x), module(x))
    assert not torch.allclose(module(x + 5), module(x), rtol=0.1)
    centred = x - x.mean(0)
    if name == "l2":
        module.eps = 1e-5
        torch.testing.assert_close(module(centred), nn.functional.batch_norm(centred, None, None, training=True))


@pytest.mark.parametrize("kind", [DetachedBatchNorm, PopulationNorm])
def test_state_dict_is_batchnorms(kind: type[nn.Module]) -> None:
    source, target = nn.BatchNorm1d(CHANNELS), kind(CHANNELS)
    source(batch(2).float())
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target.eval()(batch(2).float()), source.eval()(batch(2).float()))
    assert list(target.state_dict()) == list(source.state_dict())


@pytest.mark.parametrize("name", [*OWN, "noisy-batch"])
def test_half_precision_input_keeps_its_dtype_and_float32_averages(name: str) -> None:
    module, x = make_norm(name, CHANNELS, ndim=2), batch(2).float()
    low, wide = make_norm(name, CHANNELS, ndim=2)(x.bfloat16()), module(x.bfloat16().float())
    assert low.dtype == torch.bfloat16
    assert {value.dtype for value in module.buffers()} == {torch.float32, torch.int64}
    if name != "noisy-batch":  # which draws other numbers in another dtype
        torch.testing.assert_close(low, wide.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "ndim"), CASES)
def test_constant_channels_give_finite_values_and_gradients(name: str, ndim: int) -> None:
    module, x = made(name, ndim), torch.zeros(SHAPES[ndim], dtype=torch.float64).requires_grad_()
    output = module(x)
    output.sum().backward()
    assert torch.isfinite(output).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", OWN)
def test_what_cannot_be_normalised_gets_a_sentence(name: str) -> None:
    module = make_norm(name, 4, ndim=2)
    with pytest.raises(UsageError, match=r"more than 1 value per channel in training.*\(1, 4\)"):
        module(torch.zeros(1, 4))
    assert module.eval()(torch.zeros(1, 4)).shape == (1, 4)
    with pytest.raises(UsageError, match=r"\(N, 4, \.\.\.\), got \(2, 3, 4\).*make_norm\(name, 3, ndim=3\)"):
        module(torch.zeros(2, 3, 4))


@pytest.mark.parametrize(
    ("name", "features", "ndim", "sentence"),
    [
        ("instance", 4, 2, "norm='layer'"),
        ("layer", 1, 2, "norm='batch'"),
        ("group", 1, 2, "norm='batch'"),
        ("batch", 4, 3, "ndim=2 or ndim=4"),
    ],
)
def test_undefined_norms_get_a_sentence(name: str, features: int, ndim: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        make_norm(name, features, ndim=ndim)


def test_unknown_names_get_near_ones() -> None:
    with pytest.raises(SelectionError, match="'batch-detached-mean'"):
        norm_named("batch-detachd-mean")
    with pytest.raises(UsageError, match="at least 1"):
        LpNorm(4, p=math.nan)


@pytest.mark.parametrize(
    ("features", "groups"), [(64, 4), (512, 32), (100, 5), (10, 1), (16, 1), (17, 1), (32, 2), (3, 1)]
)
def test_groups_have_sixteen_channels_or_the_next_number_that_divides(features: int, groups: int) -> None:
    assert make_norm("group", features, ndim=4).num_groups == groups
    assert make_norm("group", features, ndim=2).num_groups == groups


def test_none_returns_its_input() -> None:
    x = batch(2)
    assert make_norm("none", CHANNELS, ndim=2)(x) is x
    assert NORMS["none"].positions == ()


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(catalogue)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_page_has_every_norm_in_its_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "normalisations.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == set(NORMS)
