"""Which backward pass fired: only what fills `.grad` of the trained loss is dL/d(site)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ics
from ics.probes import Plans, Probes
from ics.probes.counted_passes import NOTE
from tests.probes.rows import gradients, normalizations

Loop = Callable[[nn.Module, Tensor], Any]


def net(normalized: bool = False) -> nn.Module:
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(5)] if normalized else []
    return nn.Sequential(nn.Linear(4, 5), *norm, nn.Tanh(), nn.Linear(5, 2)).double()


def penalised(model: nn.Module, x: Tensor) -> Tensor:
    """The loss with a gradient penalty, as in WGAN-GP."""
    x = x.clone().requires_grad_()
    output = model(x)
    (inner,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    return output.square().mean() + (inner.norm(dim=1) - 1).square().mean()


def parts_penalised(model: nn.Module, x: Tensor) -> Tensor:
    """A penalty on the gradients of parameters (a gradient's norm is made small)."""
    loss = model(x).square().mean()
    inner = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    return loss + sum(each.square().sum() for each in inner)


def explored(model: nn.Module, x: Tensor) -> Tensor:
    """A saliency map that only looks (retain_graph without a graph of its own)."""
    x = x.clone().requires_grad_()
    output = model(x)
    torch.autograd.grad(output.sum(), x, retain_graph=True)
    return output.square().mean()


def of_inputs(model: nn.Module, x: Tensor) -> Tensor:
    """`backward(inputs=[x])`: fills .grad, but not of the trained parameters."""
    x = x.clone().requires_grad_()
    output = model(x)
    output.sum().backward(inputs=[x], create_graph=True)
    assert x.grad is not None
    return output.square().mean() + x.grad.square().mean()


def oracle(loss_of: Loop, model: nn.Module, x: Tensor) -> Tensor:
    """d(total loss)/d(output of the first layer), by autograd."""
    sites: list[Tensor] = []
    handle = model[0].register_forward_hook(lambda *seen: sites.append(seen[2]))  # type: ignore[index]
    loss = loss_of(model, x)
    handle.remove()
    return torch.autograd.grad(loss, sites[0])[0]


def backward(loss_of: Loop, model: nn.Module, x: Tensor) -> None:
    loss_of(model, x).backward()


def by_hand(model: nn.Module, x: Tensor) -> None:
    torch.autograd.grad(penalised(model, x), list(model.parameters()))


def measured(model: nn.Module, run: Callable[[], Any], plans: Plans | None = None, **options: Any) -> Probes:
    wanted = {"activations": True, "gradients": True, "normalization": True, **options}
    probes = Probes(model, plans=plans, **wanted)
    with probes:
        run()
    return probes


LOSSES = [penalised, parts_penalised, explored, of_inputs]


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("loss_of", LOSSES)
@pytest.mark.parametrize("normalized", [False, True])
def test_inner_passes_add_nothing_at_any_step(loss_of: Loop, normalized: bool) -> None:
    """Four steps: the first is followed, later ones are measured by a plan."""
    model, plans = net(normalized), Plans()
    for _ in range(4):
        x = torch.randn(6, 4).double()
        exact = oracle(loss_of, model, x)

        def run(x: Tensor = x) -> None:
            loss_of(model, x).backward()

        probes = measured(model, run, plans)
        row = gradients(probes)["0", 0, "preactivation"]
        assert row["count"] == exact.numel()
        assert row["gradient_norm"] == pytest.approx(float(exact.norm()), rel=1e-6)
        assert row["null_reason"] is None


def test_a_penalty_and_theorem_41() -> None:
    """A normalised critic: ||dL/d(output)||^2 is that of the outer pass, followed and planned."""
    model, plans = net(normalized=True), Plans()
    for _ in range(4):
        x = torch.randn(6, 4).double()
        seen: list[Tensor] = []
        handle = model[1].register_forward_hook(lambda *each, seen=seen: seen.append(each[2]))  # type: ignore[index]
        loss = penalised(model, x)
        handle.remove()
        exact = float(torch.autograd.grad(loss, seen[0])[0].square().sum())

        probes = measured(model, partial(backward, penalised, model, x), plans)
        (row,) = normalizations(probes).values()
        assert row["output_gradient_squared"] == pytest.approx(exact, rel=1e-6)


def test_gradients_that_the_loop_hands_on_by_itself_count() -> None:
    """`grads = autograd.grad(loss, parameters)`, then `p.grad = g`: one such pass is the training's."""
    model, plans = net(), Plans()
    for _ in range(3):
        x = torch.randn(6, 4).double()
        exact = oracle(penalised, model, x)
        probes = measured(model, partial(by_hand, model, x), plans)
        row = gradients(probes)["0", 0, "preactivation"]
        assert row["gradient_norm"] == pytest.approx(float(exact.norm()), rel=1e-6)


def per_task(model: nn.Module, x: Tensor) -> None:
    """PCGrad: a gradient per task, combined by hand."""
    output = model(x)
    for number in range(2):
        torch.autograd.grad(output[:, number].mean(), list(model.parameters()), retain_graph=True)


def only_looked_at(model: nn.Module, x: Tensor) -> None:
    x = x.clone().requires_grad_()
    torch.autograd.grad(model(x).sum(), x)


def retained(model: nn.Module, x: Tensor) -> None:
    """Two losses of one pass, each with a backward of its own: the gradient is the sum, which no hook sees."""
    output = model(x)
    output[:, 0].mean().backward(retain_graph=True)
    output[:, 1].mean().backward()


@pytest.mark.parametrize(
    ("run", "reason"), [(per_task, "several calls"), (only_looked_at, "no backward pass filled"), (retained, "sum")]
)
@pytest.mark.parametrize("normalized", [False, True])
def test_what_cannot_be_known_is_null_with_its_reason(run: Loop, reason: str, normalized: bool) -> None:
    model, plans = net(normalized), Plans()
    for _ in range(4):
        probes = measured(model, lambda: run(model, torch.randn(6, 4).double()), plans)
        row = gradients(probes)["0", 0, "preactivation"]
        assert row["gradient_norm"] is None
        assert reason in row["null_reason"]
        for own in normalizations(probes).values():
            assert own["output_gradient_squared"] is None
            assert reason in own["null_reason"]


def test_gradient_accumulation_merges_as_before() -> None:
    """Two penalised micro-batches: 2 * 6 * 5 values."""
    model, plans = net(), Plans()
    for _ in range(3):
        batches = [torch.randn(6, 4).double() for _ in range(2)]
        exact = torch.stack([oracle(penalised, model, x) for x in batches])

        def run(batches: list[Tensor] = batches) -> None:
            for x in batches:
                penalised(model, x).backward()

        row = gradients(measured(model, run, plans))["0", 0, "preactivation"]
        assert row["count"] == exact.numel()
        assert row["gradient_norm"] == pytest.approx(float(exact.norm()), rel=1e-6)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_segments_count(reentrant: bool) -> None:
    """All parameters are inside segments: the outer pass reaches none of them by itself."""
    model = net()
    x = torch.randn(6, 4).double()

    def loss_of(model: Any, x: Tensor) -> Tensor:
        hidden = torch.utils.checkpoint.checkpoint(model, x.clone().requires_grad_(), use_reentrant=reentrant)
        return hidden.square().mean()

    exact = oracle(lambda model, x: model(x).square().mean(), model, x)
    row = gradients(measured(model, lambda: loss_of(model, x).backward()))["0", 0, "preactivation"]
    assert row["gradient_norm"] == pytest.approx(float(exact.norm()), rel=1e-6)


def test_the_run_says_so_once(tmp_path: Path) -> None:
    """WGAN-GP in a recorder: one warning, one note in run.json, and the row of plain autograd."""
    model = net().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = ics.Recorder(model, to=tmp_path / "run", optimizer=optimizer, instruments={"gradients": 1}, strict=True)
    with warnings.catch_warnings(record=True) as caught, recorder:
        warnings.simplefilter("always")
        for _ in range(3):
            x = torch.randn(6, 4)
            with recorder.step((x, None)):
                optimizer.zero_grad()
                penalised(model, x).backward()
                optimizer.step()
    said = [str(each.message) for each in caught if issubclass(each.category, ics.MeasurementWarning)]
    assert said == [NOTE]
    assert NOTE in json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
