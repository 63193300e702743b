from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ics.landscape import Objective, RandomState, make_transition
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.stacked.batched import BatchedPassError
from ics.landscape.hybrids.stacked.staircase import staircase
from ics.probes import find_layers
from tests.landscape.nets import copies, take_step
from tests.landscape.steps import all_of, assert_same, deep_linear, groups_of, squared_error, step_of
from tests.reference.gradient_shift_kpass import shifted_gradients

both_layouts = pytest.mark.parametrize("features_first", [False, True])


class Block(nn.Module):
    """Three layers in one module of the chain, and a sum around them."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 6))

    def forward(self, x):
        return x + self.inside(x)


class Wrapped(nn.Module):
    """A chain with code, and random numbers, before and after it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(True)), nn.Linear(6, 3))

    def forward(self, x):
        return F.dropout(self.body(x + 0.1 * torch.randn_like(x)), 0.2, self.training) / 2


def convolutions():
    relu = nn.ReLU(inplace=True)
    block = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), relu, nn.Dropout2d(0.2))
    return nn.Sequential(
        block, nn.Conv2d(3, 4, 3), relu, nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(4, 3)
    )


def widths():
    return nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 4, bias=False), nn.Sigmoid(), nn.Linear(4, 3))


CHAINS = {
    "convolutions": (convolutions, (2, 4, 4)),
    "widths": (widths, (6,)),
    "wrapped": (Wrapped, (6,)),
    "blocks": (lambda: nn.Sequential(nn.Linear(6, 6), Block(), nn.Dropout(0.3), Block(), nn.Linear(6, 3)), (6,)),
    "sequences": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.Flatten(1)), (2, 6)),
    "batch norm first": (
        lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False)),
        (6,),
    ),
    "no statistics": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)),
        (6,),
    ),
}


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def moved(model, shape, *, loss_fn=cross_entropy, size=7, dtype=torch.float64):
    """A transition by one gradient step, its layers by leaf, and what the reference needs to replay it."""
    torch.manual_seed(5)
    model.to(dtype)
    batch = (torch.randn(size, *shape, dtype=dtype), torch.randint(0, 3, (size,)))
    circumstances = {"random_state": RandomState.capture(model).cpu, "buffers": copies(model.named_buffers())}
    objective = Objective(model, loss_fn, batch)
    before = copies(model.named_parameters())
    after = {name: before[name] - 0.1 * g for name, g in objective(before).gradients.items()}
    layers = find_layers(model, lambda: objective(before), grouping="leaf")
    transition = make_transition(objective, before=before, after=after)
    reference = (model, loss_fn, batch, before, after, layers)
    return transition, layers, lambda: shifted_gradients(*reference, **circumstances)


@both_layouts
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CHAINS)
def test_gradients_are_those_of_the_reference(name, training, features_first):
    torch.manual_seed(0)
    make, shape = CHAINS[name]
    transition, layers, reference = moved(make().train(training), shape)
    wanted = reference()
    assert_same(all_of(staircase, transition, layers, features_first=features_first), wanted)
    apart = [
        float((gradients[name] - transition.gradients[name]).norm())
        for gradients in list(wanted.values())[1:]
        for name in gradients
        if gradients[name] is not None
    ]
    assert max(apart) > 1e-4  # there is something to tell apart


@both_layouts
@pytest.mark.parametrize("size", [2, 7])
def test_a_real_step_of_a_net_with_layers_of_several_modules(size, features_first):
    taken = take_step("normalised_mlp", size=size, dtype=torch.float64)
    wanted = shifted_gradients(
        taken.model, taken.loss_fn, taken.batch, taken.before, taken.after, taken.layers, **taken.circumstances
    )
    assert_same(all_of(staircase, taken.transition(), taken.layers, features_first=features_first), wanted)


@both_layouts
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_deep_linear_nets_as_full_passes(norm, accumulate, features_first):
    model = deep_linear(norm=norm)
    transition, layers = step_of(model, groups_of(model), accumulate=accumulate)
    found = all_of(staircase, transition, layers, features_first=features_first)
    assert_same(found, all_of(full_passes, transition, layers))


@pytest.mark.parametrize("selected", [["4"], ["0", "6"], ["2", "8", "10"]])
def test_only_the_selected_layers(selected):
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model))
    found = all_of(staircase, transition, layers, selected=selected)
    assert_same(found, all_of(full_passes, transition, layers, selected=selected))


def test_frozen_parameters():
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model), frozen=["0.weight", "4.weight", "6.weight", "7.bias"])
    found = all_of(staircase, transition, layers)
    assert "6.weight" not in found["6"]
    assert_same(found, all_of(full_passes, transition, layers))


def test_draws_go_on_from_one_micro_batch_to_the_next():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4))
    transition, layers = step_of(model, [("0",), ("2",), ("4",)], accumulate=True)
    assert_same(all_of(staircase, transition, layers), all_of(full_passes, transition, layers))


def test_nothing_of_the_model_changes():
    taken = take_step("normalised_mlp")
    transition = taken.transition()
    state, random_state = copy.deepcopy(taken.model.state_dict()), RandomState.capture(taken.model)
    attributes = [dict(vars(module)) for module in taken.model.modules()]
    all_of(staircase, transition, taken.layers)
    assert all(torch.equal(value, state[name]) for name, value in taken.model.state_dict().items())
    assert random_state.equals(RandomState.capture(taken.model))
    assert all(isinstance(value, nn.Parameter) for value in taken.model.parameters())
    assert all(vars(module) == kept for module, kept in zip(taken.model.modules(), attributes, strict=True))


def test_each_module_runs_three_times_however_many_layers_there_are():
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append(self)
            return super().forward(x)

    model = nn.Sequential(*(Watched(4, 4) for _ in range(9)))
    transition, layers = step_of(model, [(str(i),) for i in range(9)])
    seen.clear()
    all_of(staircase, transition, layers)
    assert [seen.count(module) for module in model] == [2, *[3] * 8]  # no hybrid is alone in the first


def test_under_autocast_as_full_passes():
    def automatic(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return squared_error(model, batch)

    model = deep_linear(norm=False)
    transition, layers = step_of(model, groups_of(model), loss_fn=automatic, dtype=torch.float32)
    found = all_of(staircase, transition, layers, features_first=True)
    assert_same(found, all_of(full_passes, transition, layers), rel=1e-2)


class Tied(nn.Sequential):
    def __init__(self):
        super().__init__(*(nn.Linear(4, 4) for _ in range(4)))
        self[3].weight = self[1].weight


class Counting(nn.Linear):
    """Multiplies by how often it has been called."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls.clone()


class Overwriting(nn.Linear):
    def forward(self, x):
        return super().forward(x.mul_(2))


class Reading(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (1 + 0.1 * float(x.detach().mean().item()))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.second(self.first(x))


def hooked():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    model[1].register_forward_hook(lambda module, args, output: 2 * output)
    return model


def penalised(model, batch):
    return squared_error(model, batch) + 0.1 * sum(value.square().sum() for value in model.parameters())


def twice(model, batch):
    return squared_error(model, batch) + model(-batch[0]).square().mean()


@pytest.mark.parametrize(
    ("make", "loss_fn", "why"),
    [
        (Tied, squared_error, "no chain"),
        (hooked, squared_error, "no chain"),
        (Residual, squared_error, "no chain"),
        (lambda: nn.Sequential(*(Counting(4, 4) for _ in range(3))), squared_error, "buffers"),
        (lambda: nn.Sequential(*(Overwriting(4, 4) for _ in range(3))), squared_error, "writes into"),
        (lambda: nn.Sequential(*(Reading(4, 4) for _ in range(3))), squared_error, "item"),
        (deep_linear, penalised, "outside"),
        (deep_linear, twice, "not called once"),
        (deep_linear, lambda model, batch: squared_error(model, batch) * torch.inf, "another loss"),
    ],
)
def test_what_is_no_chain_or_comes_out_differently_is_refused(make, loss_fn, why):
    torch.manual_seed(0)
    model = make()
    names = [(name,) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    transition, layers = step_of(model, names, loss_fn=loss_fn)
    with pytest.raises(BatchedPassError, match=why):
        all_of(staircase, transition, layers)
