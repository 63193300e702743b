"""dL/d(site) against autograd on a hand-written forward pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.probes.nets import dense, residual, residual_by_hand
from tests.probes.rows import activations, assert_row, gradients, normalizations, probed


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_site_of_a_residual_net(batch: int) -> None:
    net, x = residual(batch=batch)
    x.requires_grad_()
    state = torch.get_rng_state()
    rows = gradients(probed(net, lambda: (net(x) ** 2).sum().backward()))
    torch.set_rng_state(state)
    sites, output = residual_by_hand(net, x)
    oracle = torch.autograd.grad((output**2).sum(), list(sites.values()))

    assert list(rows) == list(sites)
    for (key, _), gradient in zip(sites.items(), oracle, strict=True):
        row = rows[key]
        assert_row(row, gradient, axis=-1 if key[0] == "head" else 1, exact_zeros=False)
        assert row["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-9, abs=1e-12)
        assert (row["kind"], row["null_reason"]) == ("site", None)


def test_a_gradient_that_is_not_there_is_null_with_a_reason() -> None:
    net = dense(3, 2)
    x = torch.randn(2, 3, dtype=torch.float64)
    rows = gradients(probed(net, lambda: net(x).sum().backward()))
    assert rows["0", 0, "input"]["null_reason"] == "the tensor needs no gradient"
    assert rows["0", 0, "input"]["mean"] is None
    assert rows["0", 0, "preactivation"]["null_reason"] is None
    rows = gradients(probed(net, lambda: net(x)))
    assert "no backward pass reached it" in rows["0", 0, "preactivation"]["null_reason"]


def test_gradients_accumulated_over_micro_batches_merge() -> None:
    net = dense(3, 4, 2)
    batches = [torch.randn(size, 3, dtype=torch.float64) for size in (2, 5, 1)]
    rows = gradients(probed(net, lambda: [(net(batch) ** 2).sum().backward() for batch in batches]))
    whole = gradients(probed(net, lambda: (net(torch.cat(batches)) ** 2).sum().backward()))
    assert list(rows) == list(whole)
    assert rows["2", 0, "preactivation"]["count"] == 16
    for key in list(whole)[1:]:
        for name in ("gradient_norm", "mean", "m2", "m3", "channel_m4"):
            np.testing.assert_allclose(rows[key][name], whole[key][name], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_scaled_losses_are_unscaled(dtype: torch.dtype) -> None:
    class Small(nn.Module):
        """A gradient of 2^-20 would be 0 or subnormal in half precision, were it not widened first."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            return (self.weight * x).float()

    net = Small()
    x = torch.ones(2, 2, dtype=dtype)
    layer = nn.Sequential(net)
    run = lambda: (layer(x).sum() * 2.0**-20 * 65536).backward()  # noqa: E731
    row = gradients(probed(layer, run, loss_scale=65536.0))["0", 0, "preactivation"]
    assert (row["mean"], row["gradient_norm"]) == (2.0**-20, 2.0**-19)


class Checkpointed(nn.Module):
    """A block run twice under activation checkpointing, between layers that are not."""

    def __init__(self, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True))
        self.last = nn.Linear(4, 2)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for _ in range(2):
            x = self.run(self.block, x)
        return self.last(self.block(x))  # and a third time without


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_is_neither_counted_twice_nor_without_gradients(reentrant: bool) -> None:
    def measure(run: Callable[..., Tensor]) -> tuple[dict, dict, dict]:
        torch.manual_seed(0)
        net = Checkpointed(run).double()
        x = torch.randn(6, 3, dtype=torch.float64)
        probes = probed(net, lambda: (net(x) ** 2).sum().backward())
        return activations(probes), gradients(probes), normalizations(probes)

    plain = measure(lambda block, x: block(x))
    saved = measure(lambda block, x: checkpoint(block, x, use_reentrant=reentrant))
    for expected, got in zip(plain, saved, strict=True):
        assert got.keys() == expected.keys()
        for key, row in expected.items():
            for name in row.keys() - {"source"}:  # what leaves a reentrant segment is another tensor
                np.testing.assert_equal(got[key][name], row[name], err_msg=f"{key} {name}")
    assert {key[1] for key in plain[0] if key[0] == "block.0"} == {0, 1, 2}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpoints_within_checkpoints() -> None:
    class Nested(nn.Module):
        def __init__(self, *, nested: bool) -> None:
            super().__init__()
            self.layer, self.act, self.nested = nn.Linear(3, 3), nn.Tanh(), nested

        def again(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
            return checkpoint(run, x, use_reentrant=True) if self.nested else run(x)

        def step(self, x: Tensor) -> Tensor:
            return self.act(self.layer(x))

        def forward(self, x: Tensor) -> Tensor:
            return self.again(lambda x: self.step(self.again(self.step, self.step(x))), self.step(x))

    def measure(*, nested: bool) -> dict:
        torch.manual_seed(0)
        net = Nested(nested=nested).double()
        x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        return gradients(probed(net, lambda: (net(x) ** 2).sum().backward()))

    plain, saved = measure(nested=False), measure(nested=True)
    assert list(plain) == list(saved)
    for key, row in plain.items():
        if key[2] != "input":  # the input of a segment is another tensor in it: only its own part of dL/d(input)
            np.testing.assert_equal(saved[key], row)
    assert len({row["gradient_norm"] for key, row in plain.items() if key[2] == "preactivation"}) == 4


def test_what_only_a_function_recomputes_is_null_with_a_reason() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(lambda x: torch.tanh(self.layer(x)), x, use_reentrant=True)

    x = torch.randn(4, 3, requires_grad=True)
    rows = gradients(probed(net := Functional(), lambda: net(x).sum().backward()))
    assert rows["layer", 0, "preactivation"]["null_reason"] is None
    assert "without a graph" in rows["layer", 0, "activation"]["null_reason"]


def test_gradients_of_a_pass_that_was_armed_are_not_taken_after_it() -> None:
    net = dense(3, 2)
    kept: list[Tensor] = []
    probes = probed(net, lambda: kept.append(net(torch.randn(2, 3, dtype=torch.float64))))
    kept[0].sum().backward()
    assert all(row["mean"] is None for row in gradients(probes).values())
