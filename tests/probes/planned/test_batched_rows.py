"""Small gradients of sites wait for the last of them and are measured together: the same rows, and nothing stale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ics import stats
from ics.errors import MeasurementWarning
from ics.probes import Plans, Probes
from tests.probes.rows import by_site

COLUMNS = ("count", "mean", "m2", "m3", "m4", "minimum", "maximum", "gradient_norm", "negative_fraction")


@pytest.fixture(autouse=True)
def kernels() -> None:
    pytest.importorskip("numba", reason="groups are measured by the kernels of the extra `fast`")


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors each group measured, in the order of calls."""
    sizes: list[int] = []
    measure = stats.Group.measure

    def counted(group: stats.Group, tensors: Any, **options: Any) -> stats.GroupStatistics:
        sizes.append(len(tensors))
        return measure(group, tensors, **options)

    monkeypatch.setattr(stats.Group, "measure", counted)
    return sizes


class Written(torch.autograd.Function):
    """The identity, whose backward pass writes to the gradient that it is handed, if `Written.on`."""

    on = False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.mul_(2) if Written.on else gradient.clone()


class Writing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Written.apply(x)


def net(*, writing: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh()]
    model = nn.Sequential(*layers, *([Writing()] if writing else []), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -2.0, 0.0, 0.3, 1e-3]))
    return model


def once(model: nn.Module, x: Tensor) -> None:
    model(x).square().mean().backward()


def rows_by_table(
    model: nn.Module, x: Tensor, plans: Plans | None, run: Callable[[nn.Module, Tensor], Any] = once, **options: Any
) -> dict[Any, dict[str, Any]]:
    model.zero_grad()
    wanted = {"activations": False, "gradients": True, "normalization": False, **options}
    probes = Probes(model, plans=plans, **wanted)
    with probes:
        run(model, x)
    return by_site(probes.blocks()[-1])


def assert_same(found: dict[Any, dict[str, Any]], expected: dict[Any, dict[str, Any]]) -> None:
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        for column, cell in row.items():
            np.testing.assert_equal(found[key][column], cell, err_msg=f"{key} {column}")


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("histogram", [True, False])
def test_together_they_are_what_they_are_one_by_one(groups: list[int], per_channel: bool, histogram: bool) -> None:
    model, plans, options = net(), Plans(), {"per_channel": per_channel, "histogram": histogram}
    for _ in range(2):
        rows_by_table(model, torch.randn(9, 6), plans, **options)
    for _ in range(3):
        x = torch.randn(9, 6)
        expected = rows_by_table(model, x, None, **options)
        groups.clear()
        assert_same(rows_by_table(model, x, plans, **options), expected)
        assert groups == [9]  # one of the last input and of the output before it; the first input has none


def test_they_are_autograds_in_float64() -> None:
    model, plans = net(), Plans()
    for _ in range(3):
        x = torch.randn(9, 6)
        rows = rows_by_table(model, x, plans)
    exact = net().double().requires_grad_(True)
    exact.load_state_dict(model.state_dict())
    sites: dict[tuple[str, str], Tensor] = {}
    values = x.double()
    for name, module in exact.named_children():
        if isinstance(module, nn.BatchNorm1d):
            mean, variance = values.mean(0), values.var(0, correction=0)
            x_hat = (values - mean) / (variance + module.eps).sqrt()
            sites[str(int(name) - 1), "normalized"] = x_hat
            values = x_hat * module.weight + module.bias
            sites[str(int(name) - 1), "scaled"] = values
        else:
            values = module(values)
            if isinstance(module, nn.Linear):
                sites[name, "preactivation"] = values
    gradients = torch.autograd.grad(values.square().mean(), list(sites.values()))
    for (layer, site), gradient in zip(sites, gradients, strict=True):
        row, flat = rows[layer, 0, site], gradient.flatten()
        scale = float(flat.abs().max())
        assert row["count"] == flat.numel()
        assert row["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-4, abs=1e-7)
        assert row["mean"] == pytest.approx(float(flat.mean()), abs=1e-4 * scale)
        assert row["m2"] == pytest.approx(float(flat.var(correction=0)), rel=1e-3)


def test_a_gradient_that_is_written_to_while_it_waits_is_found() -> None:
    model, plans, x = net(writing=True), Plans(), torch.randn(9, 6)
    for _ in range(3):
        assert_same(rows_by_table(model, x, plans), rows_by_table(model, x, None))
    Written.on = True
    try:
        with pytest.warns(MeasurementWarning, match="did not call its modules as it did"):
            rows = rows_by_table(model, x, plans)
        assert all(row["mean"] is None and "did not do what it did" in row["null_reason"] for row in rows.values())
        assert_same(rows_by_table(model, x, plans), rows_by_table(model, x, None))
    finally:
        Written.on = False


def test_what_is_written_to_from_the_first_is_measured_in_time(groups: list[int]) -> None:
    model, plans, x = net(writing=True), Plans(), torch.randn(9, 6)
    Written.on = True
    try:
        for _ in range(4):
            assert_same(rows_by_table(model, x, plans), rows_by_table(model, x, None))
    finally:
        Written.on = False
    assert groups[-1] == 9  # of 10: that which is written to is measured as it comes


@pytest.mark.parametrize(
    "options", [{"loss_scale": 1024.0}, {"loss_scale": torch.tensor(3.0)}, {"sites": ("normalized",)}], ids=str
)
def test_scaled_losses_and_a_choice_of_sites(options: dict[str, Any]) -> None:
    model, plans = net(), Plans()
    for _ in range(4):
        x = torch.randn(9, 6)
        assert_same(rows_by_table(model, x, plans, **options), rows_by_table(model, x, None, **options))


def test_an_optimizer_that_steps_within_the_backward_pass() -> None:
    model, plans, x = net(), Plans(), torch.randn(9, 6)

    def run(model: nn.Module, x: Tensor) -> None:
        def step(parameter: Tensor) -> None:
            parameter.detach().sub_(parameter.grad, alpha=0.5)

        handles = [each.register_post_accumulate_grad_hook(step) for each in model.parameters()]
        once(model, x)
        for handle in handles:
            handle.remove()

    state = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(4):
        found = rows_by_table(model, x, plans, run)
        model.load_state_dict(state)
        expected = rows_by_table(model, x, None, run)
        model.load_state_dict(state)
        assert_same(found, expected)


def test_backward_passes_that_end_early_and_several_of_them(groups: list[int]) -> None:
    model, plans, x = net(), Plans(), torch.randn(9, 6)

    def run(model: nn.Module, x: Tensor) -> None:
        model(x).square()[:4].sum().backward()
        model(x).square().mean().backward()
        model(x).square().sum().backward(inputs=[model[6].weight])
        model(x).square().mean().backward(inputs=[model[3].weight])

    for _ in range(2):
        rows_by_table(model, x, plans)
    groups.clear()
    assert_same(rows_by_table(model, x, plans, run), rows_by_table(model, x, None, run))
    assert len(groups) >= 2


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 0.0, 1e30])
def test_values_that_are_not_finite_zero_or_huge(bad: float) -> None:
    model, plans, x = net(), Plans(), torch.randn(9, 6)

    def run(model: nn.Module, x: Tensor) -> None:
        output = model(x)
        output.backward(torch.full_like(output, bad))

    for _ in range(4):
        with np.errstate(all="ignore"):
            assert_same(rows_by_table(model, x, plans, run), rows_by_table(model, x, None, run))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_types(dtype: torch.dtype) -> None:
    model, plans = net().to(dtype), Plans()
    for _ in range(4):
        x = torch.randn(9, 6).to(dtype)
        assert_same(rows_by_table(model, x, plans), rows_by_table(model, x, None))


def test_measuring_leaves_gradients_of_inputs_and_parameters_as_they_are() -> None:
    model, plans = net(), Plans()
    for _ in range(4):
        x = torch.randn(9, 6, requires_grad=True)
        again = x.detach().clone().requires_grad_()
        rows_by_table(model, x, plans)
        measured = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        model.zero_grad()
        once(model, again)
        assert x.grad is not None
        assert again.grad is not None
        assert torch.equal(x.grad, again.grad)
        for found, parameter in zip(measured, model.parameters(), strict=True):
            assert parameter.grad is not None
            assert torch.equal(found, parameter.grad)


def test_no_gradient_outlives_its_step() -> None:
    model, plans, x = net(), Plans(), torch.randn(9, 6)
    for _ in range(3):
        rows_by_table(model, x, plans)
    probes = Probes(model, activations=False, gradients=True, normalization=False, plans=plans)
    with probes:
        model(x)[:, 0].sum().backward()
    planned = probes._planned
    assert planned is not None
    assert not len(planned._gradient_buffer)
