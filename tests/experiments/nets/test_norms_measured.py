"""What the measurements make of every normalisation: gradient shift with its draws and state, x-hat, Theorem 4.1."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ics
from ics.experiments.nets.models import mlp
from ics.experiments.nets.norms import NORMS, make_norm
from ics.landscape import Objective, make_transition
from ics.landscape.hybrids.plan import plan_hybrids
from ics.landscape.hybrids.replay.prefix_reuse import prefix_reuse
from ics.landscape.hybrids.stacked.batched import batched_passes
from ics.landscape.measures.zero_gradients import cancelled_parameters
from ics.probes.structure.layers import find_layers
from ics.records import Layer
from tests.landscape.steps import assert_same
from tests.reference.gradient_shift_kpass import shifted_gradients

Batch = tuple[Tensor, Tensor]

NAMES = [name for name in NORMS if name != "instance"]  # undefined in fully connected nets
PLAIN_BATCHNORM = {"batch", "batch-after-activation", "batch-both", "batch-fixed-affine"}
KNOWN_XHAT = {*PLAIN_BATCHNORM, "layer", "group"}
CANCELS_THE_BIAS = {"batch", "batch-both", "batch-fixed-affine", "noisy-batch", "instance"}


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(12, 4, generator=generator).double(), torch.randint(3, (12,), generator=generator))
        for _ in range(count)
    ]


def net(norm: str, **settings: Any) -> nn.Sequential:
    """A float64 net whose running averages have moved from where they start."""
    torch.manual_seed(1)
    model = mlp(input_shape=(4,), num_outputs=3, hidden=(5, 6), activation="tanh", norm=norm, **settings).double()
    model(batches(1)[0][0])
    return model


def layers_of(model: nn.Module) -> tuple[Layer, ...]:
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    layers = find_layers(model, lambda: model(batches(1)[0][0]))
    model.load_state_dict(buffers, strict=False)
    return layers


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("norm", NAMES)
def test_gradient_shift_replays_the_pass_of_every_norm(norm: str, accumulate: bool) -> None:
    """G' by kept calls and by stacked hybrids against one copy of the model and one pass per layer.

    With two micro-batches the second one of `population` is normalised by what the first one left.
    """
    model, two = net(norm, dropout=0.2), batches(2)
    layers = layers_of(model)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    state = torch.get_rng_state()
    objective = Objective(model, loss_fn, two if accumulate else two[0], accumulate=accumulate)
    before = {name: value.clone() for name, value in objective.parameters.items()}
    after = {name: value + 0.03 * torch.randn_like(value) for name, value in before.items()}
    transition = make_transition(objective, before=before, after=after)

    def loss_of_all(copied: nn.Module, given: list[Batch]) -> Tensor:
        return torch.stack([loss_fn(copied, batch) for batch in given]).sum()

    wanted = shifted_gradients(
        model, loss_of_all, two[: 1 + accumulate], before, after, layers, random_state=state, buffers=buffers
    )
    selected = [layer.name for layer in layers]
    plan = plan_hybrids(transition, layers=layers, selected=selected)
    for way in (prefix_reuse, batched_passes):
        found = {layer.name: shifted for layer, shifted in way(plan)}
        assert_same(found, wanted)
    moved = [name for name in selected if not torch.equal(*_weights(transition.gradients, wanted[name]))]
    assert moved == selected[1:]  # the shift of the first layer is 0; that of no other is
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def _weights(gradients: Any, shifted: Any) -> tuple[Tensor, Tensor]:
    weight = next(name for name in shifted if name.endswith("weight"))
    return gradients[weight], shifted[weight]


@pytest.mark.parametrize(("norm", "ndim"), [*((norm, 2) for norm in NAMES), *((norm, 4) for norm in NORMS)])
def test_a_bias_is_called_cancelled_where_it_is(norm: str, ndim: int) -> None:
    torch.manual_seed(1)
    layer = nn.Linear(4, 32) if ndim == 2 else nn.Conv2d(2, 32, 2)
    here, behind = (
        make_norm(norm if place in NORMS[norm].positions else "none", 32, ndim=ndim) for place in ("before", "after")
    )
    model = nn.Sequential(layer, here, nn.Tanh(), behind, nn.Flatten(), nn.LazyLinear(1)).double()
    x = torch.randn(12, 4).double() if ndim == 2 else torch.randn(6, 2, 4, 4).double()
    model(x).pow(2).sum().backward()
    found = cancelled_parameters(model, find_layers(model, lambda: model(x))[0])
    vanishes = layer.bias.grad.norm() < 1e-12 * layer.weight.grad.norm()
    assert found == ({"0.bias"} if vanishes else set())
    assert vanishes == (norm in CANCELS_THE_BIAS)


@pytest.mark.parametrize("norm", [name for name in NAMES if name != "none"])
def test_theorem_and_xhat_are_right_or_null_with_a_reason(norm: str, tmp_path: Any) -> None:
    model = net(norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    instruments = {name: ics.every(1) for name in ("activations", "normalization")}
    with ics.Recorder(model, to=tmp_path, optimizer=optimizer, instruments=instruments, strict=True) as recorder:
        for batch in batches(3):
            with recorder.step(batch):
                optimizer.zero_grad()
                loss_fn(model, batch).backward()
                optimizer.step()
    run = ics.open_runs(tmp_path)

    rows = run.table("normalization")
    assert len(rows) == 3 * 2 * len(NORMS[norm].positions)
    if norm in PLAIN_BATCHNORM:
        assert (rows.theorem_error < 1e-10).all()
    else:
        assert rows.theorem_error.isna().all()
        assert rows.null_reason.str.contains("only BatchNorm has").all()

    xhat = run.table("activations").query("site == 'normalized'")
    assert len(xhat) == len(rows)
    if norm in KNOWN_XHAT:
        np.testing.assert_allclose(xhat["mean"], 0, atol=1e-12)
        np.testing.assert_allclose(xhat["m2"], 1, rtol=1e-2)
    else:
        assert xhat["mean"].isna().all()
        assert xhat.null_reason.str.contains("is not known: it is not torch's own").all()


def trained(norm: str, to: Any = None) -> dict[str, Tensor]:
    model = net(norm, dropout=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    names = ("activations", "gradients", "normalization", "gradient_shift", "gradient_line", "drift")
    instruments = {name: ics.every(1) for name in names}
    torch.manual_seed(2)
    with ExitStack() as stack:
        recorder = to and ics.Recorder(model, loss_fn, to=to, optimizer=optimizer, instruments=instruments, strict=True)
        if recorder:
            stack.enter_context(recorder)
        for batch in batches(3):
            with recorder.step(batch) if recorder else nullcontext():
                optimizer.zero_grad()
                loss_fn(model, batch).backward()
                optimizer.step()
    return {**model.state_dict(), "random state": torch.get_rng_state()}


@pytest.mark.parametrize("norm", NAMES)
def test_measuring_changes_nothing(norm: str, tmp_path: Any) -> None:
    plain, measured = trained(norm), trained(norm, tmp_path / "run")
    assert plain.keys() == measured.keys()
    assert [name for name in plain if not torch.equal(plain[name], measured[name])] == []
