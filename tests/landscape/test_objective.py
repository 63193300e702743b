from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from ics.errors import LossError, SelectionError, UsageError
from ics.landscape import HessianAt, Objective, RandomState, gradient_line, gradient_shift
from tests.landscape.nets import NETS, copies, cross_entropy, take_step
from tests.reference.gradient_shift_kpass import loss_and_gradients


def everything_about(model):
    """Every bit that training could see of a model and of the generators."""
    return {
        "parameters": {name: (id(value), value.detach().clone()) for name, value in model.named_parameters()},
        "gradients": {name: (id(value.grad), value.grad.clone()) for name, value in model.named_parameters()},
        "buffers": {name: (id(value), value.clone()) for name, value in model.named_buffers()},
        "attributes": {name: dict(vars(module)) for name, module in model.named_modules()},
        "hooks": {name: dict(module._forward_hooks) for name, module in model.named_modules()},
        "modes": [module.training for module in model.modules()],
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a is b or a == b


@pytest.mark.parametrize("name", NETS)
def test_measuring_changes_nothing(name):
    taken = take_step(name)
    then = everything_about(taken.model)
    versions = [value._version for value in (*taken.before.values(), *taken.after.values(), *taken.buffers.values())]
    transition = taken.transition(second=taken.objective())
    gradient_shift(transition, layers=taken.layers)
    gradient_line(transition, etas=[0.1], directions=("gradient", "random"))
    now = everything_about(taken.model)
    for part in then:
        assert same(then[part], now[part]), part
    assert versions == [v._version for v in (*taken.before.values(), *taken.after.values(), *taken.buffers.values())]


def test_gradients_outside_the_model_are_left_alone():
    model, head = nn.Linear(2, 2), nn.Linear(2, 1)
    x = torch.ones(3, 2, requires_grad=True)
    objective = Objective(model, lambda model, x: head(model(x)).sum(), x)
    objective(objective.parameters)
    assert x.grad is head.weight.grad is None


def test_buffers_that_a_pass_reads_and_writes_start_from_training_s_each_time():
    class Centred(nn.Linear):
        def __init__(self):
            super().__init__(2, 1)
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, x):
            self.mean.lerp_(x.mean(0), 0.5)
            return super().forward(x - self.mean)

    model = Centred()
    objective = Objective(model, lambda model, x: model(x).square().sum(), torch.ones(5, 2))
    first, second = objective(objective.parameters), objective(objective.parameters)
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(model(torch.ones(5, 2)).square().sum(), first.loss)


def test_everything_comes_back_when_the_loss_raises():
    taken = take_step("residual")
    then = everything_about(taken.model)

    def broken(model, batch):
        model(batch[0])
        raise KeyError("the user's own mistake")

    with pytest.raises(KeyError):
        taken.objective(loss_fn=broken)(taken.before)
    assert same(then, everything_about(taken.model))


@pytest.mark.parametrize("name", NETS)
def test_evaluating_elsewhere_equals_a_copy_of_the_model_with_those_parameters(name):
    taken = take_step(name)
    loss, gradients = loss_and_gradients(
        taken.model, taken.loss_fn, taken.batch, taken.after, list(taken.after), **taken.circumstances
    )
    for _ in range(2):  # the second time everything is replayed from the start again
        there = taken.objective()(taken.after)
        assert torch.equal(there.loss, loss)
        assert all(torch.equal(there.gradients[parameter], gradients[parameter]) for parameter in gradients)


def test_random_numbers_of_python_numpy_torch_and_held_generators_are_replayed():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.own = torch.Generator().manual_seed(3)

        def forward(self, x):
            draws = [
                random.random(),
                np.random.rand(),
                float(torch.rand(())),
                float(torch.rand((), generator=self.own)),
            ]
            return (self.weight * x * torch.tensor([draws]).T).sum()

    model = Noisy()
    objective = Objective(model, lambda model, x: model(x), torch.ones(3))
    own, draws = model.own.get_state(), (random.getstate(), np.random.get_state()[1].copy())
    first, second = objective(objective.parameters), objective(objective.parameters)
    assert torch.equal(first.gradients["weight"], second.gradients["weight"])
    assert torch.equal(own, model.own.get_state())
    assert random.getstate() == draws[0]
    assert (np.random.get_state()[1] == draws[1]).all()
    assert float(model(torch.ones(3)).detach()) == float(first.loss)  # nothing was drawn since: the same numbers


def test_a_captured_state_can_be_restored_more_than_once():
    torch.manual_seed(0)
    state = RandomState.capture(nn.Identity())
    draws = []
    for _ in range(2):
        state.restore()
        draws.append((torch.rand(3).tolist(), random.random(), np.random.rand()))
    assert draws[0] == draws[1]


@pytest.mark.parametrize("name", ["residual", "reused", "tied"])
def test_micro_batches_accumulate_as_repeated_backward_does(name):
    torch.manual_seed(1)
    net = NETS[name]
    model = net.build()
    micro = [net.batch(size, torch.float32) for size in (4, 3, 1)]
    objective = Objective(model, cross_entropy, micro, accumulate=True)
    total = torch.zeros(())
    for batch in micro:
        loss = cross_entropy(model, batch)
        loss.backward()
        total += loss.detach()
    there = objective(copies(model.named_parameters()))
    assert torch.equal(there.loss, total)
    for parameter, value in model.named_parameters():
        assert torch.equal(there.gradients[parameter], value.grad), parameter


def test_only_the_wanted_gradients_are_taken():
    taken = take_step("reused")
    there = taken.objective()(taken.before, wanted=["core.bias"])
    assert list(there.gradients) == ["core.bias"]
    assert torch.equal(there.gradients["core.bias"], taken.used["core.bias"])


def test_no_dependence_is_none_and_no_slope_is_zeros():
    model = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)])
    objective = Objective(model, lambda model, x: (model[0](x) * 0).sum(), torch.ones(2, 1))
    gradients = objective(objective.parameters).gradients
    assert gradients["1.weight"] is None
    assert torch.equal(gradients["0.weight"], torch.zeros(1, 1))


def test_frozen_parameters_are_used_but_have_no_gradient():
    taken = take_step("reused")
    taken.model.embed.requires_grad_(False)
    there = taken.objective()(taken.before)
    assert "embed.weight" not in there.gradients
    assert torch.equal(there.gradients["head.weight"], taken.used["head.weight"])


def test_a_model_that_writes_into_its_weight_never_writes_into_the_values_given():
    model = nn.Embedding(3, 2, max_norm=1.0)
    values = {"weight": torch.full((3, 2), 5.0)}
    objective = Objective(model, lambda model, x: model(x).sum(), torch.tensor([0, 1]))
    losses = [float(objective(values).loss) for _ in range(3)]
    assert torch.equal(values["weight"], torch.full((3, 2), 5.0))
    assert losses == [pytest.approx(4 * 0.5**0.5, rel=1e-5)] * 3
    assert (model.weight != 5.0).all()


def test_counters_and_caches_kept_as_plain_attributes_are_put_back():
    class Counting(nn.Linear):
        calls = 0
        cache = None

        def forward(self, x):
            self.calls += 1
            self.cache = super().forward(x)
            return self.cache * self.calls

    model = Counting(2, 1)
    objective = Objective(model, lambda model, x: model(x).sum(), torch.ones(1, 2))
    assert torch.equal(objective(objective.parameters).loss, objective(objective.parameters).loss)
    assert (model.calls, model.cache) == (0, None)
    assert not {"calls", "cache"} & vars(model).keys()


def test_sparse_gradients_come_dense():
    dense, sparse = (nn.Embedding(4, 2, sparse=sparse) for sparse in (False, True))
    values = {"weight": dense.weight.detach()}
    gradients = [
        Objective(model, lambda model, x: model(x).square().sum(), torch.tensor([1, 1, 3]))(values).gradients["weight"]
        for model in (dense, sparse)
    ]
    assert torch.equal(*gradients)


def test_gradients_are_taken_even_where_the_caller_has_switched_them_off():
    taken = take_step("reused")
    with torch.no_grad():
        assert taken.objective()(taken.before).gradients["core.weight"].abs().sum() > 0
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda model, batch: model(batch), r"one number as a tensor, got a float32 tensor of shape \(5, 3\)"),
        (lambda model, batch: None, "got None"),
        (lambda model, batch: model(batch).sum().item(), "got a float"),
        (lambda model, batch: {"loss": model(batch).sum()}, "got a dict"),
        (lambda model, batch: (model(batch) > 0).sum(), "got a int64 tensor"),
        (lambda model, batch: batch.sum(), "depends on none"),
        (lambda model, batch: model(batch).sum().detach(), "depends on none"),
    ],
)
def test_a_loss_that_cannot_be_used_is_one_sentence(loss_fn, message):
    model = nn.Linear(2, 3)
    with pytest.raises(LossError, match=message):
        objective = Objective(model, loss_fn, torch.ones(5, 2))
        objective(objective.parameters)


def test_other_mistakes_are_one_sentence():
    with pytest.raises(UsageError, match="model with parameters, got ReLU without any"):
        Objective(nn.ReLU(), cross_entropy, None)
    with pytest.raises(UsageError, match=r"expects a list of micro-batches.*type \[batch\]"):
        Objective(nn.Linear(1, 1), cross_entropy, torch.ones(1), accumulate=True)
    objective = Objective(nn.Linear(1, 1), lambda model, x: model(x).sum(), torch.ones(1, 1))
    with pytest.raises(SelectionError, match="did you mean 'weight'"):
        objective({**objective.parameters, "weigth": torch.ones(1, 1)})
    with pytest.raises(UsageError, match=r"a value for every parameter, got none for bias"):
        objective({"weight": torch.ones(1, 1)})


def test_a_loss_that_is_nan_is_a_value():
    objective = Objective(nn.Linear(1, 1), lambda model, x: model(x).sum(), torch.full((1, 1), float("nan")))
    assert objective(objective.parameters).loss.isnan()


class Checkpointed(nn.Module):
    def __init__(self, *, use_reentrant):
        super().__init__()
        self.stem, self.head, self.use_reentrant = nn.Linear(3, 3), nn.Linear(3, 1), use_reentrant

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.head, self.stem(x), use_reentrant=self.use_reentrant)


@pytest.mark.parametrize(
    "evaluate", [lambda each: each(each.parameters), lambda each: HessianAt(each, each.parameters)]
)
def test_reentrant_checkpointing_is_refused_in_one_sentence(evaluate):
    def loss_fn(model, x):
        return model(x).square().sum()

    with pytest.raises(UsageError, match="use_reentrant=False"):
        evaluate(Objective(Checkpointed(use_reentrant=True), loss_fn, torch.ones(2, 3)))
    evaluate(Objective(Checkpointed(use_reentrant=False), loss_fn, torch.ones(2, 3)))
