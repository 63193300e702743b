"""Parameters of the loss that are not the model's: at W(t) in every replay, and part of every line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ics
from ics.errors import UsageError
from tests.field.steps import last_row, make_net, make_pairs, recorded, shift_and_floor, weights


class Weighted(nn.Module):
    """A criterion with learned weights per output, and a buffer that every pass moves."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        self.head = nn.Linear(2, 2).double()
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def forward(self, output, y):
        self.seen += 1
        return (self.scale * (self.head(output) - y) ** 2 * self.seen).mean()


class WholeLoss(nn.Module):
    """A loss_fn that is a module."""

    def __init__(self):
        super().__init__()
        self.criterion = Weighted()

    def forward(self, model, batch):
        return self.criterion(model(batch[0]), batch[1])


class Holding(WholeLoss):
    """A loss_fn that is a module and holds the model too."""

    def __init__(self, model):
        super().__init__()
        self.model = model


def losses_of(x, y, *, scale, weight, bias, seen):
    """The weighted loss at fixed values of the criterion, as a function of the net's weights."""

    def loss(first, last):
        output = torch.tanh(x @ first[0].T + first[1]) @ last[0].T + last[1]
        return (scale * (output @ weight.T + bias - y) ** 2 * seen).mean()

    return loss


def values(criterion):
    found = {"scale": criterion.scale, "weight": criterion.head.weight, "bias": criterion.head.bias}
    return {name: value.detach().clone() for name, value in found.items()}


def make_way(way):
    """Return net, loss_fn, criterion, optimizers, and what is handed to the recorder beside them."""
    model = make_net()
    torch.manual_seed(3)
    if way in ("loss_fn", "holding"):
        loss_fn = WholeLoss() if way == "loss_fn" else Holding(model)
        criterion = loss_fn.criterion
    else:
        criterion = Weighted()

        def loss_fn(model, batch):
            return criterion(model(batch[0]), batch[1])

    if way in ("own_optimizer", "loss_fn"):
        optimizers = [torch.optim.SGD(each.parameters(), 0.3) for each in (model, criterion)]
    else:
        optimizers = [torch.optim.SGD([*model.parameters(), *criterion.parameters()], 0.3)]
    given = {"extra_parameters": {"criterion": criterion}} if way in ("named", "own_optimizer") else {}
    if way == "named_one_by_one":
        given = {"extra_parameters": dict(criterion.named_parameters())}
    return model, loss_fn, criterion, optimizers, given


WAYS = ["loss_fn", "holding", "named", "named_one_by_one", "own_optimizer", "unnamed"]


@pytest.mark.parametrize("way", WAYS)
def test_a_criterion_with_parameters_stands_where_it_stood_in_training(way, tmp_path):
    pairs = make_pairs(2)
    model, loss_fn, criterion, optimizers, given = make_way(way)
    at, seen = [], []

    def block(batch):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_fn(model, batch).backward()
        at.append((weights(model), values(criterion)))
        seen.append(float(criterion.seen))
        for optimizer in optimizers:
            optimizer.step()

    run = recorded(
        tmp_path / "run", model, loss_fn, pairs, optimizers[0], block=block, strict=True,
        instruments={"gradient_shift": 1, "drift": 1, "attribution": 1}, **given,
    )  # fmt: skip
    assert "is equal to" in run.info["objective"]
    assert float(criterion.seen) == 2
    for step in (0, 1):
        before, held = at[step]
        here = losses_of(*pairs[step], **held, seen=seen[step])
        here.at = before
        second = losses_of(*pairs[0], **held, seen=seen[step])
        shift, floor = shift_and_floor(here, at[1][0] if step == 0 else weights(model), second=second)
        assert last_row(run, step=step)["shift_l2"] == pytest.approx(shift, rel=1e-10)
        assert step == 0 or last_row(run)["floor_l2"] == pytest.approx(floor, rel=1e-10)


def uncertain(log_sigma):
    """A regression with a learned uncertainty that only the loop and this closure hold."""

    def loss_fn(model, batch):
        x, y = batch
        return ((model(x) - y) ** 2 * torch.exp(-log_sigma) + log_sigma).mean()

    return loss_fn


def uncertain_at(sigma, x, y):
    def loss(first, last):
        output = torch.tanh(x @ first[0].T + first[1]) @ last[0].T + last[1]
        return ((output - y) ** 2 * torch.exp(-sigma) + sigma).mean()

    return loss


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_parameter_that_no_module_holds(named, kind, tmp_path):
    pairs = make_pairs(2)
    model = make_net()
    log_sigma = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))
    loss_fn = uncertain(log_sigma)
    optimizer = kind([*model.parameters(), log_sigma], lr=0.2)
    at = []

    def block(batch):
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        at.append((weights(model), log_sigma.detach().clone(), [p.grad.clone() for p in model.parameters()]))
        at[-1] += (log_sigma.grad.clone(),)
        optimizer.step()

    run = recorded(
        tmp_path / "run", model, loss_fn, pairs, optimizer, block=block, strict=True,
        instruments={"gradient_shift": 1, "gradient_line": 1, "curvature": 1},
        options={"gradient_line": {"etas": [0.5]}},
        **({"extra_parameters": {"log_sigma": log_sigma}} if named else {}),
    )  # fmt: skip
    assert "is equal to" in run.info["objective"]
    before, sigma, gradients, of_sigma = at[1]
    here, second = uncertain_at(sigma, *pairs[1]), uncertain_at(sigma, *pairs[0])
    here.at = before
    shift, floor = shift_and_floor(here, weights(model), second=second)
    assert last_row(run)["shift_l2"] == pytest.approx(shift, rel=1e-10)
    assert last_row(run)["floor_l2"] == pytest.approx(floor, rel=1e-10)
    flat = [value for layer in before for value in layer]
    moved = [value - 0.5 * gradient for value, gradient in zip(flat, gradients, strict=True)]
    line = run.table("gradient_line").query("step == 1 and eta == 0.5").iloc[0]
    expected = uncertain_at(sigma - 0.5 * of_sigma, *pairs[1])(moved[:2], moved[2:])
    assert line["loss"] == pytest.approx(float(expected), rel=1e-10)


def test_training_is_bit_identical_with_parameters_beside_the_model(tmp_path):
    ends = []
    for measured in (False, True):
        model = make_net()
        log_sigma = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))
        loss_fn = uncertain(log_sigma)
        optimizer = torch.optim.AdamW([*model.parameters(), log_sigma], lr=0.2)

        def block(batch, model=model, optimizer=optimizer, loss_fn=loss_fn):
            optimizer.zero_grad()
            loss_fn(model, batch).backward()
            optimizer.step()

        if measured:
            instruments = dict.fromkeys(("gradient_shift", "gradient_line", "curvature", "drift", "gradients"), 1)
            recorded(tmp_path / "run", model, loss_fn, make_pairs(3), optimizer, block=block, instruments=instruments)
        else:
            for batch in make_pairs(3):
                block(batch)
        ends.append([*weights(model)[0], *weights(model)[1], log_sigma.detach().clone(), log_sigma.grad.clone()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([nn.Linear(1, 1)], "expects names with modules or parameters, got list"),
        ({"criterion": 3}, "expects a module or a parameter for each name, got int for 'criterion'"),
        ({"criterion": torch.nn.functional.mse_loss}, "got function for 'criterion'"),
    ],
)
def test_what_is_no_parameter_is_refused_at_once(given, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        ics.Recorder(make_net(), uncertain(torch.zeros(1)), to=tmp_path / "run", extra_parameters=given)
