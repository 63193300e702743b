"""Noisy BatchNorm: the distributions of its noise, its gradient, and whose draws they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from ics.experiments.nets.norms import make_norm, noisy

CLASSES = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}
SHAPES = {2: (12, 6), 4: (3, 6, 4, 5)}


def noise(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """s and m of s a + m, told apart by calling it at a = 0 and a = 1 with the same draws."""
    m = drawn(torch.zeros(shape, dtype=torch.float64), seed)
    return drawn(torch.ones(shape, dtype=torch.float64), seed) - m, m


def drawn(a: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return noisy.shaken(a)


@pytest.mark.parametrize("shape", [(400, 2000), (4, 2000, 10, 10)])
def test_the_noise_has_the_stated_distributions(shape: tuple[int, ...]) -> None:
    s, m = (value.transpose(0, 1).flatten(1).numpy() for value in noise(shape))  # (units, samples)
    lowest, highest = m.min(1), m.max(1)
    assert (highest - lowest).max() <= 0.2
    mu = (highest + lowest) / 2  # within 0.1 / 400 or so of the unit's own
    assert kstest(mu, "uniform", args=(-0.5, 1.0)).pvalue > 0.01
    within = (m - mu[:, None])[:20].ravel()
    assert kstest(within, "uniform", args=(-0.1, 0.2)).pvalue > 0.01
    sigma = s.mean(1)  # to 0.1 / sqrt(400) = 0.005
    assert kstest(sigma, "uniform", args=(1.0, 0.25)).pvalue > 0.01
    assert kstest(((s - sigma[:, None]) / s.std(1, keepdims=True))[:20].ravel(), "norm").pvalue > 0.01
    np.testing.assert_allclose(s.std(1).mean(), 0.1, rtol=0.01)
    assert abs(np.corrcoef(mu, sigma)[0, 1]) < 0.1


@pytest.mark.parametrize("ndim", SHAPES)
def test_it_is_batchnorm_and_then_the_noise_which_is_a_constant_in_the_gradient(ndim: int) -> None:
    module, plain = make_norm("noisy-batch", 6, ndim=ndim).double(), CLASSES[ndim](6).double()
    x = torch.randn(SHAPES[ndim], dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    s, m = noise(SHAPES[ndim], seed=5)
    torch.manual_seed(5)
    output, wanted = module(x), s * plain(x) + m
    torch.testing.assert_close(output, wanted)
    found, expected = (torch.autograd.grad(z.pow(3).sum(), x)[0] for z in (output, wanted))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(module.running_var, plain.running_var)


@pytest.mark.parametrize("ndim", SHAPES)
def test_off_in_eval(ndim: int) -> None:
    module, plain = make_norm("noisy-batch", 6, ndim=ndim).eval(), CLASSES[ndim](6).eval()
    x, before = torch.randn(SHAPES[ndim]), torch.get_rng_state()
    assert torch.equal(module(x), plain(x))
    assert torch.equal(torch.get_rng_state(), before)


def test_fresh_at_every_step_and_layer_and_replayed_with_torchs_generator() -> None:
    first, second = make_norm("noisy-batch", 6, ndim=2), make_norm("noisy-batch", 6, ndim=2)
    x, state = torch.randn(12, 6), torch.get_rng_state()
    outputs = [first(x), first(x), second(x)]
    assert not torch.allclose(outputs[0], outputs[1], atol=0.01)
    assert not torch.allclose(outputs[1], outputs[2], atol=0.01)
    torch.set_rng_state(state)
    assert torch.equal(first(x), outputs[0])
