"""A model that is copied or saved inside a measured block gives a copy that works, and that nothing of ours is in."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ics
from ics.errors import MeasurementWarning

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Twice(nn.Module):
    """Uses a layer twice, and holds a hook of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True))
        self.core, self.head = nn.Linear(5, 5), nn.Linear(5, 2)
        self.core.register_forward_hook(double)

    def forward(self, x):
        return self.head(torch.tanh(self.core(torch.tanh(self.core(self.body(x))))))


def double(module, args, output):
    return 2 * output


def mlp():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))


def saved(model):
    kept = io.BytesIO()
    torch.save(model, kept)
    kept.seek(0)
    return torch.load(kept, weights_only=False)


def average(model):
    return torch.optim.swa_utils.AveragedModel(model).module


COPIES = {
    "deepcopy": copy.deepcopy,
    "save": saved,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "average": average,
    "copy of a copy": lambda model: copy.deepcopy(pickle.loads(pickle.dumps(model))),
}


def loss_fn(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def train(make, tmp_path, take=None, steps=4):
    """Train, copying before, between and after the passes; step 0 is followed, later ones measured by a plan."""
    torch.manual_seed(0)
    model, found = make(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    every = {"activations": 1, "gradients": 1, "normalization": 1}
    with ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments=every, strict=True) as recorder:
        for number in range(steps):
            batch = torch.randn(6, 4), torch.randn(6, 2)
            with recorder.step(batch):
                optimizer.zero_grad()
                before = take(model) if take else None
                loss = loss_fn(model, batch)
                between = take(model) if take else None
                loss.backward()
                found += [(number, each, copy.deepcopy(model.state_dict())) for each in (before, between) if each]
                optimizer.step()
    return model, found


@pytest.mark.parametrize("make", [mlp, Twice])
@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_made_in_a_measured_block_has_no_hook_of_ours_and_keeps_the_users(kind, make, tmp_path):
    _, found = train(make, tmp_path, COPIES[kind])
    assert len(found) == 8
    for _, copied, state in found:
        hooks = [hook for module in copied.modules() for name in HOOKS for hook in getattr(module, name).values()]
        assert hooks == ([double] if make is Twice else [])
        assert copied.state_dict().keys() == state.keys()
        copied(torch.randn(6, 4)).sum().backward()


@pytest.mark.parametrize("kind", COPIES)
def test_rows_and_weights_are_those_of_a_run_that_copies_nothing(kind, tmp_path):
    plain, _ = train(mlp, tmp_path / "plain")
    model, _ = train(mlp, tmp_path / "copied", lambda model: COPIES[kind](model))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    for table in ("activations", "gradients", "normalization"):
        left, right = (ics.open_run(tmp_path / name).table(table) for name in ("plain", "copied"))
        assert left.drop(columns=["run"], errors="ignore").equals(right.drop(columns=["run"], errors="ignore"))


def test_a_hook_registered_on_a_loaded_copy_is_called_as_it_was_registered(tmp_path):
    """Numbers of hooks begin anew in another process: what is left in a file must not be taken for marks of theirs."""
    model, found = train(mlp, tmp_path, saved, steps=1)
    for _, copied, _ in found:
        for module in copied.modules():
            for name in (
                "_forward_hooks_with_kwargs",
                "_forward_pre_hooks_with_kwargs",
                "_forward_hooks_always_called",
            ):
                assert not any(isinstance(key, int) for key in getattr(module, name))
    assert not any(
        getattr(module, name) for module in model.modules() for name in (*HOOKS, "_forward_hooks_with_kwargs")
    )


def test_a_saved_model_needs_no_ics_to_be_loaded(tmp_path):
    _, found = train(mlp, tmp_path, pickle.dumps, steps=2)
    assert all(b"ics." not in dumped for _, dumped, _ in found)


def test_an_input_that_needs_a_gradient_is_saved_without_a_warning(tmp_path):
    """torch warns of hooks on a tensor that is saved; those on an adversarial example's leaf are ours."""
    model = mlp()
    x = torch.randn(6, 4, requires_grad=True)
    with ics.Recorder(model, to=tmp_path, instruments={"gradients": 1}, strict=True) as recorder:
        for _ in range(3):
            with recorder.step():
                out = model(x)
                torch.save(x, io.BytesIO())
                assert torch.equal(copy.deepcopy(x), x)
                out.sum().backward()


def test_a_shallow_copy_that_is_called_shares_the_hooks_and_is_not_taken_for_a_module(tmp_path):
    def call(model):
        with torch.no_grad():
            copy.copy(model.eval())(torch.zeros(1, 4))
        model.train()

    with pytest.warns(MeasurementWarning, match="they do not count"):
        train(mlp, tmp_path, call, steps=1)
    assert set(ics.open_run(tmp_path).table("activations")["layer"]) == {"0", "3"}
