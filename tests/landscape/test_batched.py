from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ics.landscape import Objective, RandomState, choosing, make_transition
from ics.landscape.batched import BatchedPassError, batched_passes
from ics.landscape.choosing import fastest
from ics.landscape.full_passes import full_passes
from tests.landscape.nets import NETS, cross_entropy, layers_of, take_step
from tests.reference.gradient_shift_kpass import shifted_gradients

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
    return {layer.name: found for layer, found in way(transition, layers=layers, selected=selected, **options)}


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


@pytest.mark.parametrize("chunk", [1, 3, None])
@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_of_the_reference(name, chunk):
    taken = take_step(name, dtype=torch.float64)
    wanted = shifted_gradients(
        taken.model, taken.loss_fn, taken.batch, taken.before, taken.after, taken.layers, **taken.circumstances
    )
    assert_same(all_of(batched_passes, taken.transition(), taken.layers, chunk=chunk), wanted)


@pytest.mark.parametrize("chunk", [1, 2, 3, None])
@pytest.mark.parametrize("norm", [False, True])
def test_deep_linear_nets_as_full_passes(norm, chunk):
    model = deep_linear(norm=norm)
    transition, layers = step_of(model, groups_of(model))
    wanted = all_of(full_passes, transition, layers)
    found = all_of(batched_passes, transition, layers, chunk=chunk)
    assert_same(found, wanted)
    moved = [
        float((gradients[f"{layer}.weight"] - transition.gradients[f"{layer}.weight"]).norm())
        for layer, gradients in found.items()
    ]
    assert moved[0] == 0
    assert min(moved[1:]) > 1e-6


@pytest.mark.parametrize("chunk", [2, None])
@pytest.mark.parametrize("selected", [["4"], ["0", "6"], ["2", "8", "10"]])
def test_only_the_selected_layers(selected, chunk):
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model))
    found = all_of(batched_passes, transition, layers, selected=selected, chunk=chunk)
    assert_same(found, all_of(full_passes, transition, layers, selected=selected))


@pytest.mark.parametrize("chunk", [2, None])
def test_frozen_parameters(chunk):
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model), frozen=["0.weight", "4.weight", "6.weight", "7.bias"])
    found = all_of(batched_passes, transition, layers, chunk=chunk)
    assert "6.weight" not in found["6"]
    assert_same(found, all_of(full_passes, transition, layers))


@pytest.mark.parametrize("norm", [False, True])
def test_micro_batches(norm):
    model = deep_linear(norm=norm)
    transition, layers = step_of(model, groups_of(model), accumulate=True)
    assert_same(all_of(batched_passes, transition, layers, chunk=3), all_of(full_passes, transition, layers))


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


class Moody(nn.Linear):
    """Reads a number of the pass when it feels like it."""

    reads = False

    def forward(self, x):
        out = super().forward(x)
        assert not self.reads or out.sum().item() != 0
        return out


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
    assert set(choosing._chosen[model].values()) == {full_passes}


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
        next(batched_passes(transition, layers=layers, selected=["2"]))


class Clock:
    """Stands for `time`: every way takes the seconds that are written down for it, and its calls are listed."""

    def __init__(self, seconds):
        self.seconds, self.now, self.calls = seconds, 0.0, []

    def perf_counter(self):
        return self.now

    def charged(self, name, way):
        def charged(*arguments, **options):
            call = (name, options.get("chunk"))
            self.calls.append(call)
            self.now += self.seconds[call]
            return way(*arguments, **options)

        return charged


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ((0.1, 0.2, 0.02, 0.03), ("batched", 3)),
        ((0.1, 0.2, 0.03, 0.02), ("batched", 5)),
        ((0.1, 0.2, 0.09, 0.09), ("usual", None)),
        ((0.1, 0.09, 0.08, 0.08), ("full", None)),
        ((9.0, 0.01, 0.01, 0.01), ("usual", None)),
        ((0.1, 0.09), ("full", None)),
        ((0.09, 0.1), ("usual", None)),
    ],
)
def test_the_fastest_way_is_chosen_once_and_the_first_result_is_the_usual_one(monkeypatch, seconds, chosen):
    ways = [("usual", None), ("full", None), ("batched", 3), ("batched", 5)][: len(seconds)]
    clock, exact = Clock(dict(zip(ways, seconds, strict=True))), len(seconds) == 2
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model))
    wanted = all_of(full_passes, transition, layers)
    usual = clock.charged("usual", full_passes)
    monkeypatch.setattr(choosing, "time", clock)
    monkeypatch.setattr(choosing, "full_passes", clock.charged("full", full_passes))
    monkeypatch.setattr(choosing, "batched_passes", clock.charged("batched", batched_passes))
    monkeypatch.setattr(choosing, "_CHUNK", 3)
    assert_same(all_of(fastest, transition, layers, usual=usual, exact=exact), wanted, rel=0)
    assert clock.calls[0] == ("usual", None)
    for _ in range(2):
        clock.calls.clear()
        assert_same(all_of(fastest, transition, layers, usual=usual, exact=exact), wanted)
        assert clock.calls == [chosen]


def test_a_batched_pass_that_fails_later_is_replaced_by_the_usual_way_for_good(monkeypatch):
    model = nn.Sequential(*(Moody(4, 4) for _ in range(4)))
    transition, layers = step_of(model, [(str(i),) for i in range(4)])
    wanted = all_of(full_passes, transition, layers)
    monkeypatch.setattr(choosing, "_WORTHWHILE", 1e-9)
    all_of(fastest, transition, layers)
    (way,) = choosing._chosen[model].values()
    assert way.func is batched_passes
    model[2].reads = True
    assert_same(all_of(fastest, transition, layers), wanted, rel=0)
    assert set(choosing._chosen[model].values()) == {full_passes}


def test_a_wrong_batched_pass_is_never_chosen(monkeypatch):
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model))

    def wrong(*arguments, **options):
        for layer, gradients in batched_passes(*arguments, **options):
            yield layer, {name: gradient * 1.001 for name, gradient in gradients.items()}

    monkeypatch.setattr(choosing, "batched_passes", wrong)
    monkeypatch.setattr(choosing, "_WORTHWHILE", 1e-9)
    wanted = all_of(full_passes, transition, layers)
    for _ in range(2):
        assert_same(all_of(fastest, transition, layers), wanted, rel=0)


def test_what_was_chosen_goes_with_the_model():
    model = deep_linear()
    transition, layers = step_of(model, groups_of(model))
    all_of(fastest, transition, layers)
    num_models = len(choosing._chosen)
    del transition, model
    assert len(choosing._chosen) == num_models - 1


def test_layers_before_and_behind_a_stack_are_not_stacked():
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            is_batched = torch._C._functorch.is_batchedtensor
            seen.append((is_batched(x), is_batched(self.weight)))
            return super().forward(x)

    model = nn.Sequential(*(Watched(4, 4) for _ in range(6)))
    transition, layers = step_of(model, [(str(i),) for i in range(6)])
    seen.clear()
    all_of(batched_passes, transition, layers, selected=["2", "3"], chunk=1)
    first = [(False, True), (True, True), (True, True), (True, False), (True, False), (True, False)]
    second = [(False, False), (False, False), (False, True), (True, True), (True, False), (True, False)]
    assert seen == [*first, *second]
