from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ics.landscape import Objective, RandomState, make_transition
from ics.landscape.hybrids import autotune
from ics.landscape.hybrids.autotune import fastest
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.stacked.batched import BatchedPassError, batched_passes
from tests.landscape.nets import NETS, cross_entropy, layers_of, take_step
from tests.landscape.steps import all_of, assert_same, deep_linear, groups_of, step_of
from tests.reference.gradient_shift_kpass import shifted_gradients


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_of_the_reference(name):
    taken = take_step(name, dtype=torch.float64)
    wanted = shifted_gradients(
        taken.model, taken.loss_fn, taken.batch, taken.before, taken.after, taken.layers, **taken.circumstances
    )
    assert_same(all_of(batched_passes, taken.transition(), taken.layers), wanted)


@pytest.mark.parametrize("norm", [False, True])
def test_deep_linear_nets_as_full_passes(norm):
    model = deep_linear(norm=norm)
    transition, layers = step_of(model, groups_of(model))
    wanted = all_of(full_passes, transition, layers)
    found = all_of(batched_passes, transition, layers)
    assert_same(found, wanted)
    moved = [
        float((gradients[f"{layer}.weight"] - transition.gradients[f"{layer}.weight"]).norm())
        for layer, gradients in found.items()
    ]
    assert moved[0] == 0
    assert min(moved[1:]) > 1e-6


@pytest.mark.parametrize("selected", [["4"], ["0", "6"], ["2", "8", "10"]])
def test_only_the_selected_layers(selected):
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model))
    found = all_of(batched_passes, transition, layers, selected=selected)
    assert_same(found, all_of(full_passes, transition, layers, selected=selected))


def test_frozen_parameters():
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model), frozen=["0.weight", "4.weight", "6.weight", "7.bias"])
    found = all_of(batched_passes, transition, layers)
    assert "6.weight" not in found["6"]
    assert_same(found, all_of(full_passes, transition, layers))


@pytest.mark.parametrize("norm", [False, True])
def test_micro_batches(norm):
    model = deep_linear(norm=norm)
    transition, layers = step_of(model, groups_of(model), accumulate=True)
    assert_same(all_of(batched_passes, transition, layers), all_of(full_passes, transition, layers))


def test_nothing_moved_is_the_gradient_itself():
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model))
    still = make_transition(transition.objective, before=transition.before, after=transition.before)
    for layer, gradients in all_of(batched_passes, still, layers).items():
        assert all(gradient is still.gradients[name] for name, gradient in gradients.items()), layer


def test_nothing_of_the_model_changes():
    taken = take_step("residual")
    transition = taken.transition()
    state, random_state = copy.deepcopy(taken.model.state_dict()), RandomState.capture(taken.model)
    all_of(batched_passes, transition, taken.layers)
    assert all(torch.equal(value, state[name]) for name, value in taken.model.state_dict().items())
    assert random_state.equals(RandomState.capture(taken.model))
    assert all(isinstance(value, nn.Parameter) for value in taken.model.parameters())


class Item(nn.Linear):
    """Reads a number of the pass."""

    def forward(self, x):
        return super().forward(x) * (1 + 0.1 * float(x.detach().mean().item()))


class Branching(nn.Linear):
    """Goes another way where the data say so."""

    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else -super().forward(x)


class Doubled(torch.autograd.Function):
    """A function with a backward pass of its own and no rule for vmap."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Custom(nn.Linear):
    def forward(self, x):
        return Doubled.apply(super().forward(x))


class IntoConstant(nn.Linear):
    """Writes what depends on the parameters into a tensor that does not."""

    def forward(self, x):
        out = torch.zeros(x.shape, dtype=x.dtype)
        out += super().forward(x)
        return out


class Redrawn(nn.Linear):
    """Draws other numbers when run in a stack than when run alone."""

    def forward(self, x):
        out = super().forward(x)
        in_stack = torch._C._functorch.is_batchedtensor(out)
        return out * (torch.rand(3)[1:] if in_stack else torch.rand(2)).to(x)[0]


@pytest.mark.parametrize("kind", [Item, Branching, Custom, IntoConstant, Redrawn])
def test_a_model_that_cannot_be_stacked_is_refused_and_measured_the_usual_way(kind):
    model = nn.Sequential(*(kind(4, 4) for _ in range(4)))
    transition, layers = step_of(model, [(str(i),) for i in range(4)])
    with pytest.raises(BatchedPassError):
        all_of(batched_passes, transition, layers)
    wanted = all_of(full_passes, transition, layers)
    for _ in range(2):
        assert_same(all_of(fastest, transition, layers), wanted, rel=0)
    assert set(autotune._chosen[model].values()) == {full_passes}


def test_a_model_that_writes_into_its_parameters_is_refused():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4, max_norm=0.5)
            self.head = nn.Linear(4, 5)

        def forward(self, tokens):
            return self.head(self.embed(tokens))

    model = Words()
    objective = Objective(model, cross_entropy, (torch.arange(5), torch.arange(5)))
    before = {name: value.clone() for name, value in objective.parameters.items()}
    transition = make_transition(objective, before=before, after={name: 0.9 * before[name] for name in before})
    with pytest.raises(BatchedPassError, match="writes into its parameters"):
        all_of(batched_passes, transition, layers_of(model, [("embed",), ("head",)]))


def test_nothing_is_yielded_when_the_loss_is_not_a_number():
    model = deep_linear(norm=False)
    transition, layers = step_of(
        model, groups_of(model), loss_fn=lambda model, batch: model(batch[0]).sum() * torch.inf
    )
    with pytest.raises(BatchedPassError, match="another loss"):
        all_of(batched_passes, transition, layers, selected=["2"])


def test_layers_before_and_behind_a_stack_are_not_stacked():
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            is_batched = torch._C._functorch.is_batchedtensor
            seen.append((is_batched(x), is_batched(self.weight)))
            return super().forward(x)

    model = nn.Sequential(*(Watched(4, 4) for _ in range(6)))
    still = ["0.weight", "0.bias", "1.weight", "1.bias"]
    transition, layers = step_of(model, [(str(i),) for i in range(6)], frozen=still)
    seen.clear()
    all_of(batched_passes, transition, layers, selected=["3"])
    before, stacked, behind = [(False, False)] * 2, [(False, True), (True, True)], [(True, False)] * 2
    assert seen == [*before, *stacked, *behind]
