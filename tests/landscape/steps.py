"""Steps of small linear nets, and a comparison of two ways to G' by layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ics.landscape import Objective, make_transition
from ics.landscape.hybrids.plan import plan_hybrids
from tests.landscape.nets import layers_of

DEPTH = 6


def squared_error(model, batch):
    x, y = batch
    return F.mse_loss(model(x), y)


def deep_linear(*, norm=True):
    modules = []
    for _ in range(DEPTH - 1):
        modules += [nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)] if norm else [nn.Linear(4, 4, bias=False)]
    return nn.Sequential(*modules, nn.Linear(4, 4, bias=False))


def groups_of(model):
    """Each linear layer with the batch norm behind it."""
    kinds = [type(module) for module in model]
    return [
        (str(i), str(i + 1)) if nn.BatchNorm1d in kinds[i + 1 : i + 2] else (str(i),)
        for i, kind in enumerate(kinds)
        if kind is nn.Linear
    ]


def step_of(model, groups, *, loss_fn=squared_error, accumulate=False, dtype=torch.float64, frozen=()):
    """A transition to parameters 3 % away, with its layers; `frozen` parameters stay and are not trained."""
    generator = torch.Generator().manual_seed(3)
    model.to(dtype)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    batches = [tuple(torch.randn(8, 4, generator=generator, dtype=dtype) for _ in "xy") for _ in range(2)]
    objective = Objective(model, loss_fn, batches if accumulate else batches[0], accumulate=accumulate)
    before = {name: value.clone() for name, value in objective.parameters.items()}
    after = {
        name: value if name in frozen else value + 0.03 * torch.randn(value.shape, generator=generator, dtype=dtype)
        for name, value in before.items()
    }
    return make_transition(objective, before=before, after=after), layers_of(model, groups)


def all_of(way, transition, layers, **options):
    selected = options.pop("selected", [layer.name for layer in layers])
    plan = plan_hybrids(transition, layers=layers, selected=selected)
    return {layer.name: found for layer, found in way(plan, **options)}


def assert_same(found, wanted, *, rel=1e-12):
    """Norm-wise by layer: a bias that batch norm subtracts again has a gradient of rounding noise alone."""
    assert list(found) == list(wanted)
    for layer, gradients in wanted.items():
        assert found[layer].keys() == gradients.keys()
        norm = sum(float(g.square().sum()) for g in gradients.values() if g is not None) ** 0.5
        for name, gradient in gradients.items():
            if gradient is None:
                assert found[layer][name] is None
            else:
                assert float((found[layer][name] - gradient).norm()) <= rel * norm, (layer, name)
