"""Measuring changes nothing, and nothing is left attached."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _len_torch_function_stack
from torch.utils.checkpoint import checkpoint

from ics import stats
from ics.probes import Probes, find_layers
from ics.probes.hooks import before_optimizer_step
from tests.probes.nets import Residual, dense
from tests.probes.rows import activations, probed

HOOKS = [name for name in nn.Module().__dict__ if "hooks" in name]
EVERYTHING = {"activations": True, "gradients": True, "normalization": True}


def hooks_left(model: nn.Module) -> list[tuple[str, str]]:
    """Return the modules that still have an entry in any of their dictionaries of hooks."""
    return [(name, kind) for name, module in model.named_modules() for kind in HOOKS if getattr(module, kind)]


class Vgg(nn.Module):
    """torchvision's pattern: in-place ReLU throughout, dropout in the head."""

    def __init__(self) -> None:
        super().__init__()
        net = torchvision.models.vgg.make_layers([4, "M", 8], batch_norm=True)
        self.net = torchvision.models.VGG(net, num_classes=3, init_weights=False)
        self.net.avgpool = nn.AdaptiveAvgPool2d(1)
        self.net.classifier = nn.Sequential(nn.Linear(8, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Reader(nn.Module):
    """Tuples, dropout in an LSTM, attention, weights tied, a checkpointed head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, dropout=0.4, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.ReLU(True))

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(x.flatten(2).transpose(1, 2)[..., :3].contiguous())
        return checkpoint(self.head, self.layer(hidden), use_reentrant=False).mean(1)


@pytest.mark.parametrize(
    ("make", "shape"), [(Residual, (5, 2, 4, 4)), (Vgg, (5, 3, 8, 8)), (Reader, (5, 4, 3, 3))], ids=lambda v: str(v)
)
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_training_with_probes_on_every_step_ends_bit_identical(
    make: Callable[[], nn.Module], shape: tuple[int, ...], micro_batches: int
) -> None:
    def train(*, measured: bool) -> Any:
        torch.manual_seed(0)
        net = make()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        rows = 0
        for _ in range(3):
            probes = Probes(net, **dict.fromkeys(EVERYTHING, measured))
            with probes:
                optimizer.zero_grad()
                for _ in range(micro_batches):
                    (net(torch.randn(shape)) ** 2).mean().backward()
                optimizer.step()
            rows += sum(block.num_rows for block in probes.blocks())
        gradients = [parameter.grad for parameter in net.parameters()]
        momentum = [state["momentum_buffer"] for state in optimizer.state.values()]
        assert (rows > 0) == measured
        assert hooks_left(net) == []
        return [*net.state_dict().values(), *gradients, *momentum, torch.get_rng_state()]

    for plain, measured in zip(train(measured=False), train(measured=True), strict=True):
        assert torch.equal(plain, measured)


def test_finding_layers_leaves_nothing() -> None:
    net = Residual()
    state = copy.deepcopy(net.state_dict())
    net.eval()
    find_layers(net, lambda: net(torch.zeros(1, 2, 3, 3)))
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert hooks_left(net) == []
    assert _len_torch_function_stack() == 0


class Failing(nn.Module):
    """Fails in the middle of a forward pass."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.layer, self.inner, self.error = nn.Linear(3, 3), nn.Sequential(nn.ReLU(), nn.Identity()), error
        self.inner[1].register_forward_pre_hook(self.fail)

    def fail(self, *_: object) -> None:
        raise self.error("stop")

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.layer(x))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_in_the_forward_pass_leaves_nothing_attached(error: type[BaseException]) -> None:
    net = Failing(error)
    before = hooks_left(net)
    x = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(error, match="stop"), Probes(net, **EVERYTHING):
        net(x)
    assert hooks_left(net) == before == [("inner.1", "_forward_pre_hooks")]
    assert not x._backward_hooks
    assert _len_torch_function_stack() == 0
    with pytest.raises(error, match="stop"):
        find_layers(net, lambda: net(x))
    assert hooks_left(net) == before
    assert _len_torch_function_stack() == 0


def test_an_exception_that_the_model_catches_does_not_confuse_the_rows() -> None:
    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.failing, self.head = Failing(ValueError), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.failing(x)
            except ValueError:
                return torch.tanh(2 * torch.relu(self.head(x)))

    net = Catching()
    rows = activations(probed(net, lambda: net(torch.ones(2, 3))))
    assert [key for key in rows if key[2] == "activation"][-2:] == [
        ("head", 0, "activation"),
        ("(root)", 0, "activation"),
    ]
    assert _len_torch_function_stack() == 0


def test_tensor_hooks_go_with_the_probes() -> None:
    net, x = dense(3, 4, 2), torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    kept: list[Tensor] = []
    net[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    with Probes(net, **EVERYTHING):
        net(x)
        assert kept[0]._backward_hooks
        assert x._backward_hooks
    assert not kept[0]._backward_hooks
    assert not x._backward_hooks


def test_an_error_of_the_probes_stops_the_measuring_not_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(*_: object, **__: object) -> None:
        calls.append(1)
        raise ArithmeticError("no moments today")

    net, x = dense(3, 4, 2), torch.ones(2, 3, dtype=torch.float64)
    (net(x) ** 2).sum().backward()
    gradient = net[0].weight.grad.clone()
    net.zero_grad()
    monkeypatch.setattr(stats, "reduce", fail)
    probes = probed(net, lambda: (net(x) ** 2).sum().backward())
    assert torch.equal(net[0].weight.grad, gradient)
    assert len(calls) == 1
    with pytest.raises(ArithmeticError, match="no moments today"):
        probes.blocks()
    assert hooks_left(net) == []


class Counting(TorchFunctionMode):
    """A user's function mode: counts the functions it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_what_the_probes_compute_is_seen_by_no_function_mode() -> None:
    net, x = Residual(), torch.randn(3, 2, 4, 4)
    with Counting() as plain:
        net(x).sum().backward()
    with Counting() as measured, Probes(net, **EVERYTHING):
        net(x).sum().backward()
    assert measured.seen == plain.seen


@pytest.mark.parametrize("autocast", [False, True])
def test_statistics_are_computed_without_a_graph_and_without_autocast(
    monkeypatch: pytest.MonkeyPatch, autocast: bool
) -> None:
    states = set()

    def moments(x: Tensor, **options: Any) -> stats.Reduced:
        states.add((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return real(x, **options)

    real = stats.reduce
    monkeypatch.setattr(stats, "reduce", moments)
    net, x = Residual(), torch.randn(3, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        probed(net, lambda: torch.autograd.grad(net(x).sum(), list(net.parameters()), create_graph=True))
    assert states == {(False, False)}


def test_before_optimizer_step_sees_the_gradients_as_used() -> None:
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    seen: list[Tensor] = []
    handle = before_optimizer_step(optimizer, lambda: seen.append(net.weight.grad.clone()))
    for _ in range(2):
        net(torch.ones(3, 2)).sum().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
        handle.remove()
    assert len(seen) == 1
    assert torch.equal(seen[0], seen[0].clamp(max=0.1))


def test_a_compiled_model_is_seen_when_it_runs_eagerly() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    compiled = torch.compile(net, backend="eager")
    x = torch.randn(2, 3)
    compiled(x)
    with torch.compiler.set_stance("force_eager"):
        rows = activations(probed(net, lambda: compiled(x)))
    assert list(rows) == [("0", 0, "input"), ("0", 0, "preactivation"), ("0", 0, "activation")]
