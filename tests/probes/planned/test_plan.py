"""A pass that is measured by a plan gives the very rows that following it gives; where it cannot, it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ics.errors import MeasurementWarning
from ics.probes import Plans, Probes
from ics.probes import probes as probes_module
from tests.probes.rows import rows_of

Pass = Callable[[nn.Module, Tensor], None]


class Block(nn.Module):
    """A residual block with one ReLU that is called twice, in place, and a sum written into its own input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        Block(4),
        nn.Flatten(),
        nn.Linear(36, 5),
    )


def dense() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 5),
        nn.BatchNorm1d(5),
        nn.Tanh(),
        nn.Dropout(0.3),
        nn.Linear(5, 5),
        nn.LayerNorm(5),
        nn.Sigmoid(),
        nn.Linear(5, 2),
    )


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "images": (images, (7, 3, 8, 8)),
    "dense": (dense, (9, 6)),
    "shared": (lambda: nn.Sequential(layer := nn.Linear(4, 4), relu := nn.ReLU(), layer, relu), (6, 4)),
    "group": (lambda: nn.Sequential(nn.Conv1d(4, 6, 2), nn.GroupNorm(2, 6), nn.GELU(), nn.Conv1d(6, 2, 1)), (5, 4, 7)),
}


def once(model: nn.Module, x: Tensor) -> None:
    model(x).square().mean().backward()


def twice(model: nn.Module, x: Tensor) -> None:
    for part in x.chunk(2):
        once(model, part)


def rows_by_table(
    model: nn.Module, run: Pass, x: Tensor, plans: Plans | None, **options: Any
) -> list[list[dict[str, Any]]]:
    """Return the rows of each table of one armed pass, the random state and buffers left as they were."""
    buffers = [buffer.clone() for buffer in model.buffers()]
    model.zero_grad()
    with torch.random.fork_rng():
        wanted = {"activations": True, "gradients": True, "normalization": False, **options}
        probes = Probes(model, plans=plans, **wanted)
        with probes:
            run(model, x)
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return [rows_of(block) for block in probes.blocks()]


def assert_same(found: list[list[dict[str, Any]]], expected: list[list[dict[str, Any]]]) -> None:
    for table, wanted in zip(found, expected, strict=True):
        assert len(table) == len(wanted) > 0
        name = "site" if "site" in wanted[0] else "of"
        by_key = {(row["layer"], row["call"], row[name]): row for row in table}
        for row in wanted:
            there = by_key[row["layer"], row["call"], row[name]]
            assert there.keys() == row.keys()
            for column, cell in row.items():
                np.testing.assert_equal(there[column], cell, err_msg=f"{row['layer']} {row[name]} {column}")


@pytest.fixture
def only_planned(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forbid following passes from the moment the fixture is called."""

    def forbid() -> None:
        def follow(*_: object, **__: object) -> None:
            raise AssertionError("the pass was followed")

        monkeypatch.setattr(probes_module, "Watch", follow)

    return forbid


@pytest.mark.parametrize("run", [once, twice])
@pytest.mark.parametrize("name", NETS)
def test_rows_by_plan_are_those_of_a_followed_pass(name: str, run: Pass, only_planned: Callable[[], None]) -> None:
    make, shape = NETS[name]
    torch.manual_seed(0)
    model, plans = make(), Plans()
    rows_by_table(model, run, torch.randn(shape), plans)
    batches = [torch.randn(shape), torch.randn(shape), torch.randn(4, *shape[1:]), torch.randn(shape)]
    expected = [rows_by_table(model, run, x, None) for x in batches]
    only_planned()
    for x, wanted in zip(batches, expected, strict=True):  # from the second on small tensors are measured together
        assert_same(rows_by_table(model, run, x, plans), wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"gradients": False},
        {"activations": False},
        {"gradients": False, "sites": ("activation",)},
        {"layers": "4", "per_channel": False, "histogram": False},
        {"loss_scale": 8.0},
        {"gradient_options": {"sites": ("input", "normalized")}},
        {"sites": ("input", "preactivation"), "gradient_options": {"sites": ("scaled",), "histogram": False}},
        {"gradient_options": {"per_channel": False}, "sites": ("activation", "input")},
    ],
    ids=str,
)
def test_every_choice_of_rows_has_a_plan_of_its_own(options: dict[str, Any], only_planned: Callable[[], None]) -> None:
    torch.manual_seed(0)
    model, plans, x = dense(), Plans(), torch.randn(9, 6)
    rows_by_table(model, once, x, plans)
    for _ in range(2):
        rows_by_table(model, once, x, plans, **options)
    expected = rows_by_table(model, once, x, None, **options)
    only_planned()
    assert_same(rows_by_table(model, once, x, plans, **options), expected)


def test_what_is_overwritten_later_in_the_pass_is_measured_before(only_planned: Callable[[], None]) -> None:
    model, plans, x = Changing(), Plans(), torch.randn(6, 4)
    model.how = "late"
    rows_by_table(model, once, x, plans)
    expected = rows_by_table(model, once, x, None)
    only_planned()
    for _ in range(3):
        assert_same(rows_by_table(model, once, x, plans), expected)


def test_evaluation_mode_uses_running_statistics(only_planned: Callable[[], None]) -> None:
    torch.manual_seed(0)
    model, plans, x = images(), Plans(), torch.randn(7, 3, 8, 8)
    for _ in range(2):
        rows_by_table(model, once, x, plans)
    model.eval()
    expected = rows_by_table(model, once, x, None)
    only_planned()
    assert_same(rows_by_table(model, once, x, plans), expected)


def test_a_value_that_is_not_finite_spreads_over_its_channel_of_x_hat(only_planned: Callable[[], None]) -> None:
    model, plans, x = dense(), Plans(), torch.randn(9, 6)
    rows_by_table(model, once, x, plans, gradients=False)
    x[0, 0] = torch.inf
    expected = rows_by_table(model, once, x, None, gradients=False)
    only_planned()
    found = rows_by_table(model, once, x, plans, gradients=False)
    assert_same(found, expected)
    (x_hat,) = [row for row in found[0] if (row["layer"], row["site"]) == ("0", "normalized")]
    assert x_hat["nonfinite_count"] == 9 * 5


class Changing(nn.Module):
    """Does something else when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4)
        self.how = "usual"

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "order":
            x = self.last(x)
        h = self.norm(self.first(x))
        if self.how == "written":
            h.mul_(2)
        if self.how == "other":
            h = h + 1
        made = h
        h = h if self.how == "skipped" else self.act(h)
        if self.how == "late":
            made.mul_(2)
        return h if self.how == "short" else self.last(h[..., None].expand(-1, -1, 4) if self.how == "axes" else h)


@pytest.mark.parametrize("how", ["order", "written", "late", "other", "skipped", "short", "axes"])
def test_a_pass_that_is_not_the_planned_one_is_null_and_the_next_one_followed(how: str) -> None:
    model, plans, x = Changing(), Plans(), torch.randn(6, 4)
    rows_by_table(model, once, x, plans)
    rows_by_table(model, once, x, plans)
    model.how = how
    with pytest.warns(MeasurementWarning, match="did not call its modules as it did"):
        values, gradients = rows_by_table(model, once, x, plans)
    for row in (*values, *gradients):
        assert row["mean"] is None
        assert "did not do what it did" in row["null_reason"]
    assert_same(rows_by_table(model, once, x, plans), rows_by_table(model, once, x, None))


def test_a_layer_that_is_frozen_later_is_noticed() -> None:
    model, plans, x = dense(), Plans(), torch.randn(9, 6)
    rows_by_table(model, once, x, plans)
    model[0].requires_grad_(False)
    with pytest.warns(MeasurementWarning, match="did not call its modules as it did"):
        rows_by_table(model, once, x, plans)
    assert_same(rows_by_table(model, once, x, plans), rows_by_table(model, once, x, None))


def test_planned_probes_leave_nothing_behind_and_change_nothing() -> None:
    torch.manual_seed(0)
    model, plans, x = images(), Plans(), torch.randn(7, 3, 8, 8)
    gradients = []
    for probed in (None, plans, plans):
        rows_by_table(model, once, x, probed)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    once(model, x)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for others in gradients[1:]:
        assert all(map(torch.equal, gradients[0], others))


def test_an_error_of_the_measuring_is_raised_after_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plans, x = dense(), Plans(), torch.randn(9, 6)
    rows_by_table(model, once, x, plans)

    def fail(*_: object, **__: object) -> None:
        raise ArithmeticError("no moments today")

    monkeypatch.setattr("ics.stats.reduce", fail)
    with pytest.raises(ArithmeticError, match="no moments today"):
        rows_by_table(model, once, x, plans)


def test_a_step_without_a_pass_is_warned_about() -> None:
    model, plans, x = dense(), Plans(), torch.randn(9, 6)
    rows_by_table(model, once, x, plans)
    with pytest.warns(MeasurementWarning, match="saw no layer"):
        rows_by_table(model, lambda *_: None, x, plans)
