"""The table `normalization` by a plan: the rows of a followed step, from one hook for each normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ics import stats
from ics.errors import MeasurementWarning
from ics.probes import Plans, Probes
from ics.probes import probes as probes_module
from tests.probes.planned.test_plan import Block, Pass, dense, images, once, twice
from tests.probes.rows import rows_of

Row = dict[str, Any]


class Residual(nn.Module):
    """As people write it: functional activations, a shared normalisation, one without gamma, one of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False)
        self.block, self.instance = Block(4), nn.InstanceNorm2d(4, affine=True)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        h = h + self.bn2(self.conv2(h))
        h = self.bn1(self.conv2(h))
        return self.last(self.instance(self.block(h)).mean((2, 3)))


def half() -> nn.Module:
    return images().bfloat16()


def momentless() -> nn.Module:
    return nn.Sequential(nn.Conv1d(4, 6, 2), nn.BatchNorm1d(6, track_running_stats=False), nn.Conv1d(6, 2, 1))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], torch.dtype]] = {
    "images": (images, (7, 3, 8, 8), torch.float32),
    "half": (half, (7, 3, 8, 8), torch.bfloat16),
    "double": (lambda: images().double(), (7, 3, 8, 8), torch.float64),
    "dense": (dense, (9, 6), torch.float32),
    "residual": (Residual, (6, 3, 5, 5), torch.float32),
    "momentless": (momentless, (5, 4, 7), torch.float32),
    "input": (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), (6, 4), torch.float32),
}


def rows(model: nn.Module, run: Pass, x: Tensor, plans: Plans | None, **options: Any) -> dict[tuple[str, int], Row]:
    """Return the rows of one armed step, and leave gradients and buffers as they were."""
    buffers = [buffer.clone() for buffer in model.buffers()]
    model.zero_grad()
    wanted = {"activations": False, "gradients": False, "normalization": True, **options}
    probes = Probes(model, plans=plans, **wanted)
    with probes, torch.random.fork_rng():
        run(model, x)
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)
    (block,) = [block for block in probes.blocks() if block.table == "normalization"]
    return {(row["layer"], row["call"]): row for row in rows_of(block)}


def assert_same(found: dict[tuple[str, int], Row], expected: dict[tuple[str, int], Row]) -> None:
    """Assert that rows are the same, but for the order of additions in float64."""
    assert list(found) == list(expected)
    for key, wanted in expected.items():
        assert found[key].keys() == wanted.keys()
        for name, cell in wanted.items():
            if cell is None or isinstance(cell, str | int):
                assert found[key][name] == cell, (key, name)
            else:
                atol = 1e-12 if name == "theorem_error" else 0
                np.testing.assert_allclose(found[key][name], cell, rtol=1e-11, atol=atol, err_msg=f"{key} {name}")


@pytest.fixture
def only_planned(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forbid following passes from the moment the fixture is called."""

    def forbid() -> None:
        def follow(*_: object, **__: object) -> None:
            raise AssertionError("the pass was followed")

        monkeypatch.setattr(probes_module, "Watch", follow)

    return forbid


@pytest.mark.parametrize("run", [once, twice])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_rows_by_plan_are_those_of_a_followed_step(
    name: str, per_channel: bool, run: Pass, only_planned: Callable[[], None]
) -> None:
    make, shape, dtype = NETS[name]
    torch.manual_seed(0)
    model, plans = make(), Plans()
    batches = [torch.randn(shape).to(dtype) for _ in range(2)]
    rows(model, run, batches[0], plans, per_channel=per_channel)
    expected = [rows(model, run, x, None, per_channel=per_channel) for x in batches]
    assert len(expected[0]) > 0
    only_planned()
    for x, wanted in zip(batches, expected, strict=True):
        assert_same(rows(model, run, x, plans, per_channel=per_channel), wanted)


@pytest.mark.parametrize("backend", ["fused", "eager"])
def test_the_theorem_holds_for_rows_by_plan(backend: Any, only_planned: Callable[[], None]) -> None:
    torch.manual_seed(0)
    model, plans, x = images().double(), Plans(), torch.randn(7, 3, 8, 8, dtype=torch.float64)
    stats.use_backend(backend)
    try:
        rows(model, once, x, plans)
        only_planned()
        for row in rows(model, once, x, plans).values():
            assert row["theorem_error"] < 1e-10
            assert row["input_gradient_squared"] > 0
    finally:
        stats.use_backend("auto")


def test_the_loss_scale_is_taken_out(only_planned: Callable[[], None]) -> None:
    torch.manual_seed(0)
    model, plans, x = dense(), Plans(), torch.randn(9, 6)
    rows(model, once, x, plans)
    expected = rows(model, once, x, None)
    only_planned()
    scaled: Pass = lambda model, x: (model(x).square().mean() * 1024).backward()  # noqa: E731
    for scale in (1024.0, torch.tensor(1024.0)):
        found = rows(model, scaled, x, plans, loss_scale=scale)
        for key, row in found.items():
            for name in ("output_gradient_squared", "input_gradient_squared", "mean_term", "normalized_term"):
                if row[name] is not None:
                    assert row[name] == pytest.approx(expected[key][name], rel=1e-4)


def test_evaluation_mode_has_a_plan_of_its_own(only_planned: Callable[[], None]) -> None:
    torch.manual_seed(0)
    model, plans, x = images().eval(), Plans(), torch.randn(7, 3, 8, 8)
    rows(model, once, x, plans)
    expected = rows(model, once, x, None)
    only_planned()
    assert_same(rows(model, once, x, plans), expected)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_step_without_a_backward_pass(per_channel: bool, only_planned: Callable[[], None]) -> None:
    model, plans, x = images(), Plans(), torch.randn(7, 3, 8, 8)

    def forward(model: nn.Module, x: Tensor) -> None:
        with torch.no_grad():
            model(x)

    rows(model, forward, x, plans, per_channel=per_channel)
    expected = rows(model, forward, x, None, per_channel=per_channel)
    only_planned()
    assert_same(rows(model, forward, x, plans, per_channel=per_channel), expected)


def test_one_graph_gone_through_twice(only_planned: Callable[[], None]) -> None:
    model, plans, x = dense(), Plans(), torch.randn(9, 6)

    def again(model: nn.Module, x: Tensor) -> None:
        loss = model(x).square().mean()
        loss.backward(retain_graph=True)
        loss.backward()

    rows(model, again, x, plans)
    expected = rows(model, again, x, None)
    only_planned()
    # The gradient is the sum of those of both passes, and so is no term of Theorem 4.1 the sum of theirs.
    for found in (expected, rows(model, again, x, plans)):
        for row in found.values():
            assert row["output_gradient_squared"] is None
            assert row["input_gradient_squared"] is None
            assert "retain_graph" in row["null_reason"]


def evaluated(model: nn.Module) -> Pass:
    model.eval()
    return once


def frozen(model: nn.Module) -> Pass:
    model.requires_grad_(False)
    return once


def without_backward(model: nn.Module) -> Pass:
    return lambda model, x: model(x)


def in_another_order(model: nn.Module) -> Pass:
    return lambda model, x: once(nn.Sequential(*reversed(list(model))), x)


def behind_something_else(model: nn.Module) -> Pass:
    def run(model: nn.Module, x: Tensor) -> None:
        first, norm, *rest = model
        nn.Sequential(*rest)(norm(first(x) + 0)).square().mean().backward()

    return run


@pytest.mark.parametrize("change", [evaluated, frozen, without_backward, in_another_order, behind_something_else])
def test_a_step_that_is_not_the_planned_one_is_null_and_the_next_one_followed(
    change: Callable[[nn.Module], Pass],
) -> None:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6))
    model, plans, x = nn.Sequential(*layers), Plans(), torch.randn(9, 6)
    for _ in range(2):
        rows(model, once, x, plans)
    run = change(model)
    if change is frozen:  # one can still go back from a loss that needs a gradient for another reason
        x = x.clone().requires_grad_()
        model[0].requires_grad_(True)
        run = lambda model, x: model(x.detach()).square().sum().item()  # type: ignore[assignment]  # noqa: E731
    with pytest.warns(MeasurementWarning, match="did not call its modules as it did"):
        lost = rows(model, run, x, plans)
    assert len(lost) == 2
    for row in lost.values():
        assert "did not do what it did" in row["null_reason"]
        assert [row[name] for name in ("count", "mean_term", "channel_weight", "bias_before_gradient_norm")] == [
            None
        ] * 4
    assert_same(rows(model, run, x, plans), rows(model, run, x, None))
    assert list(plans.by_kind.values()) == [None]


class Checkpointed(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[1](checkpoint(self[0], x, use_reentrant=True))


class Wide(nn.Module):
    """Calls its normalisation twice, and gives it its input by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(input=self.layer(x))


@pytest.mark.parametrize(
    "make",
    [lambda: Checkpointed(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)), Wide],
    ids=["checkpointed", "by name"],
)
def test_steps_that_no_plan_can_tell_are_followed_every_time(make: Callable[[], nn.Module]) -> None:
    model, plans, x = make(), Plans(), torch.randn(6, 4, requires_grad=True)
    for _ in range(3):
        assert_same(rows(model, once, x, plans), rows(model, once, x, None))
    assert list(plans.by_kind.values()) == [None]


def test_layers_of_a_shared_normalisation_that_are_not_wanted() -> None:
    model, plans, x = Residual(), Plans(), torch.randn(6, 3, 5, 5)
    for _ in range(3):
        found = rows(model, once, x, plans, layers="conv1")
        assert list(found) == [("conv1", 0)]
        assert_same(found, rows(model, once, x, None, layers="conv1"))


def test_sites_and_normalisations_have_plans_side_by_side(only_planned: Callable[[], None]) -> None:
    torch.manual_seed(0)
    model, plans, x = images(), Plans(), torch.randn(7, 3, 8, 8)
    rows(model, once, x, plans, activations=True, gradients=True)
    expected = rows(model, once, x, None)
    only_planned()
    assert_same(rows(model, once, x, plans, activations=True, gradients=True), expected)
    assert_same(rows(model, once, x, plans), expected)
    assert len(plans.by_kind) == 2


def test_a_model_without_normalisations_has_no_rows(only_planned: Callable[[], None]) -> None:
    model, plans, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), Plans(), torch.randn(6, 4)
    assert rows(model, once, x, plans) == {}
    only_planned()
    assert rows(model, once, x, plans) == {}


def test_nothing_is_changed_and_nothing_is_left_behind() -> None:
    torch.manual_seed(0)
    model, plans, x = Residual(), Plans(), torch.randn(6, 3, 5, 5)
    gradients = []
    for number in range(3):
        if number == 0:
            buffers = [buffer.clone() for buffer in model.buffers()]
            once(model, x)
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        else:
            rows(model, once, x, plans)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        model.zero_grad()
    for module in model.modules():
        assert not module._forward_hooks
    for others in gradients[1:]:
        assert all(map(torch.equal, gradients[0], others))


def test_an_error_of_the_measuring_is_raised_after_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plans, x = dense(), Plans(), torch.randn(9, 6)
    rows(model, once, x, plans)

    def fail(*_: object, **__: object) -> None:
        raise ArithmeticError("no sums today")

    monkeypatch.setattr("ics.stats.backward_sums", fail)
    with pytest.raises(ArithmeticError, match="no sums today"):
        rows(model, once, x, plans)


def test_a_step_without_a_pass_is_warned_about() -> None:
    model, plans, x = dense(), Plans(), torch.randn(9, 6)
    rows(model, once, x, plans)
    with pytest.warns(MeasurementWarning, match="saw no layer"):
        assert rows(model, lambda *_: None, x, plans) == {}
