"""Loss slices against closed forms, numpy and copies of the model, in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ics.errors import UsageError
from ics.landscape import Objective, loss_slice
from ics.landscape.measures.slices import SLICE_COLUMNS, filter_normalised
from tests.landscape.nets import NETS, cross_entropy, take_step


def direction_of(parameters, seed=0):
    return filter_normalised(parameters, generator=torch.Generator().manual_seed(seed))


def half_squared_norm(model, _):
    return sum((value**2).sum() for value in model.parameters()) / 2


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)).double()


@pytest.mark.parametrize("name", NETS)
def test_every_filter_of_a_direction_is_as_long_as_that_of_the_parameter(name):
    parameters = dict(NETS[name].build().double().named_parameters())
    direction = direction_of({key: value.detach() for key, value in parameters.items()})
    assert direction.keys() == parameters.keys()
    for key, value in parameters.items():
        w, d = value.detach().numpy(), direction[key].numpy()
        if w.ndim == 1:
            assert not d.any()
            continue
        for filter_w, filter_d in zip(w, d, strict=True):
            assert np.linalg.norm(filter_d) == pytest.approx(np.linalg.norm(filter_w), rel=1e-12)
        assert not np.allclose(np.abs(d), np.abs(w))


def test_a_direction_keeps_the_angles_of_the_gaussian_draw():
    value = torch.randn(3, 2, 4, dtype=torch.float64)
    drawn = torch.randn(value.shape, generator=torch.Generator().manual_seed(7)).double().numpy()
    found = direction_of({"w": value}, seed=7)["w"].numpy()
    for one, other in zip(found, drawn, strict=True):
        cosine = (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
        assert cosine == pytest.approx(1.0, rel=1e-12)


def test_a_filter_of_zeros_stays_where_it_is():
    assert not direction_of({"w": torch.zeros(2, 3)})["w"].any()


@pytest.mark.parametrize("dimensions", [1, 2])
def test_on_half_the_squared_norm_it_is_a_parabola(dimensions):
    model = small_net()
    objective = Objective(model, half_squared_norm, None)
    w = objective.parameters
    generator = torch.Generator().manual_seed(4)
    flat = [
        np.concatenate([value.numpy().ravel() for value in each.values()])
        for each in (w, *(filter_normalised(w, generator=generator) for _ in range(dimensions)))
    ]
    centre, d, e = (*flat, np.zeros_like(flat[0]))[:3]
    columns = loss_slice(objective, w, radius=0.5, num_points=5, dimensions=dimensions, seed=4)
    assert tuple(columns) == SLICE_COLUMNS
    grid = [-0.5, -0.25, 0.0, 0.25, 0.5]
    places = [(a, b) for a in grid for b in (grid if dimensions == 2 else [0.0])]
    assert list(zip(columns["alpha"], columns["beta"], strict=True)) == places
    for (alpha, beta), distance, loss in zip(places, columns["distance"], columns["loss"], strict=True):
        step = alpha * d + beta * e
        assert distance == pytest.approx(np.linalg.norm(step), rel=1e-12, abs=1e-300)
        assert loss == pytest.approx(centre @ centre / 2 + centre @ step + step @ step / 2, rel=1e-12)


def test_losses_are_those_of_a_copy_of_the_model_with_the_parameters_moved():
    model = small_net()
    batch = (torch.randn(6, 2, 4, 4, dtype=torch.float64), torch.arange(6) % 4)
    objective = Objective(model, cross_entropy, batch)
    direction = direction_of(objective.parameters, seed=2)
    columns = loss_slice(objective, objective.parameters, num_points=4, seed=2)
    for alpha, loss in zip(columns["alpha"], columns["loss"], strict=True):
        copied = copy.deepcopy(model)
        with torch.no_grad():
            for name, value in copied.named_parameters():
                value += alpha * direction[name]
        assert loss == pytest.approx(cross_entropy(copied, batch).item(), rel=1e-12)


def test_the_middle_is_the_loss_itself_and_the_line_lies_in_the_plane():
    taken = take_step("normalised_mlp", dtype=torch.float64)
    objective = taken.objective()
    line = loss_slice(objective, taken.before, num_points=3, seed=1)
    plane = loss_slice(objective, taken.before, num_points=3, seed=1, dimensions=2)
    assert line["loss"][1] == float(objective(taken.before).loss)
    middle = [loss for loss, beta in zip(plane["loss"], plane["beta"], strict=True) if beta == 0]
    assert middle == line["loss"]
    assert loss_slice(objective, taken.before, num_points=3, seed=2)["loss"][0] != line["loss"][0]


def test_nets_that_differ_by_a_scale_of_their_filters_have_one_slice():
    """relu(10 u) / 10 = relu(u): the same function, whose slices without the rescaling would differ."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    objective = Objective(model, cross_entropy, (torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 3))
    w = objective.parameters
    scaled = {"0.weight": 10 * w["0.weight"], "2.weight": w["2.weight"] / 10}
    one, other = (loss_slice(objective, each, num_points=7)["loss"] for each in (w, scaled))
    assert other == pytest.approx(one, rel=1e-12)
    assert max(one) > 1.1 * one[3]


def test_frozen_parameters_stay_and_nothing_is_disturbed():
    taken = take_step("residual")
    taken.model.head.weight.requires_grad_(False)
    state, buffers = torch.get_rng_state(), {name: value.clone() for name, value in taken.model.named_buffers()}
    grads = {name: value.grad.clone() for name, value in taken.model.named_parameters()}
    seen = []

    def loss_fn(model, batch):
        seen.append(model.head.weight.detach().clone())
        return cross_entropy(model, batch)

    loss_slice(taken.objective(loss_fn=loss_fn), taken.after, num_points=2)
    assert all(torch.equal(value, taken.after["head.weight"]) for value in seen)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(buffers[name], value) for name, value in taken.model.named_buffers())
    for name, value in taken.model.named_parameters():
        assert torch.equal(value, taken.after[name])
        assert torch.equal(value.grad, grads[name])


def test_a_batch_that_itself_wants_gradients_is_no_obstacle():
    model = nn.Linear(2, 1)
    x = torch.ones(3, 2, requires_grad=True)
    columns = loss_slice(Objective(model, lambda model, x: model(x).sum(), x), dict(model.named_parameters()))
    assert np.isfinite(columns["loss"]).all()
    assert x.grad is None


def test_a_loss_that_is_not_finite_stands_as_it_is():
    model = nn.Linear(2, 1)
    objective = Objective(model, lambda model, x: model(x).sum().log(), -torch.ones(3, 2) * torch.inf)
    assert not np.isfinite(loss_slice(objective, objective.parameters, num_points=2)["loss"]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius above 0, got 0.0"),
        ({"radius": float("nan")}, "radius above 0, got nan"),
        ({"num_points": 1}, "at least 2 points along each direction, got 1"),
        ({"dimensions": 3}, "1 or 2 dimensions, got 3"),
    ],
)
def test_mistakes_are_told(options, message):
    objective = Objective(nn.Linear(2, 1), lambda model, x: model(x).sum(), torch.ones(1, 2))
    with pytest.raises(UsageError, match=message):
        loss_slice(objective, objective.parameters, **options)
