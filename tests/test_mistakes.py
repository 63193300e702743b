"""One test for each mistake that earlier code made when it measured covariate shift or the loss landscape.

Each test computes what the mistake would give beside what is right, so that it is seen to tell them apart.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ics

D = torch.float64


class Net(nn.Module):
    """Convolution, batch norm, in-place ReLU, dropout, head: small, and with everything that can go wrong."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.bn = nn.BatchNorm2d(3)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(dropout)
        self.mid = nn.Linear(12, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.mid(self.drop(self.act(self.bn(self.conv(x)))).flatten(1))))


def net(dtype=D, **options) -> Net:
    torch.manual_seed(0)
    return Net(**options).to(dtype)


def batch(seed=0, dtype=D, size=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 1, 4, 4, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.arange(size) % 2


def loss_fn(model, data):
    return F.cross_entropy(model(data[0]), data[1])


def moved(model, amount=0.1, only=None):
    """Parameters after a step that moved those whose name is in `only` (all, where None)."""
    torch.manual_seed(1)
    return {
        name: value.detach() + amount * torch.randn_like(value) * (only is None or name in only)
        for name, value in model.named_parameters()
    }


def gradient(model, data):
    return dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad(loss_fn(model, data), list(model.parameters())),
            strict=True,
        )
    )


def flat(gradients):
    return np.concatenate([value.detach().numpy().ravel() for value in gradients.values()])


def unmoved(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_another_minibatch_for_the_second_gradient():
    model = net()
    frame = ics.gradient_shift(model, loss_fn, batch(0), unmoved(model), second_batch=batch(1))
    assert (frame["shift_l2"] == 0).all()  # nothing moved: any other number is the other batch's
    assert (frame["floor_l2"] > 0).all()  # and this is what it would have been


def test_the_envelope_of_several_runs_called_loss_landscape():
    model, data = net(), batch()
    line = ics.gradient_line(model, loss_fn, data, [0.05, 0.4])
    start, g = unmoved(model), gradient(model, data)
    for eta, loss in zip(line["eta"], line["loss"], strict=True):
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(start[name] - eta * g[name])  # always from the same point
        assert loss == pytest.approx(loss_fn(model, data).item(), rel=1e-12)


def test_beta_not_divided_by_the_distance_or_by_the_wrong_one():
    scale = torch.tensor([1.0, 3.0, 10.0], dtype=D)
    model = nn.Linear(3, 1, bias=False).to(D)

    def quadratic(model, data):
        return 0.5 * (scale * model.weight[0] ** 2).sum()

    line = ics.gradient_line(model, quadratic, None, [0.01, 0.1, 1.0]).iloc[1:]
    g = scale * model.weight[0].detach()
    expected = float((scale * g).norm() / g.norm())  # ||Hg|| / ||g|| for every eta
    np.testing.assert_allclose(line["gradient_change_l2"] / line["distance"], expected, rtol=1e-12)
    np.testing.assert_allclose(line["distance"], line["eta"] * float(g.norm()), rtol=1e-12)
    assert not np.allclose(line["gradient_change_l2"], expected)
    assert not np.allclose(line["gradient_change_l2"] / line["eta"], expected)


def test_ascent_instead_of_descent():
    line = ics.gradient_line(net(), loss_fn, batch(), [1e-4])
    assert line["loss"][1] < line["loss"][0]
    assert line["predicted_change"][1] < 0


def test_gradients_left_accumulated_or_perturbed_for_the_optimizer():
    model, data = net(), batch()
    loss_fn(model, data).backward()
    before = {name: value.grad.clone() for name, value in model.named_parameters()}
    ics.gradient_shift(model, loss_fn, data, moved(model))
    ics.gradient_line(model, loss_fn, data, [0.1])
    ics.activation_stats(model, data)
    assert all(torch.equal(before[name], value.grad) for name, value in model.named_parameters())


def test_batch_norm_statistics_advanced_by_the_measurement():
    model, data = net(), batch()
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert "bn.num_batches_tracked" in before
    ics.gradient_shift(model, loss_fn, data, moved(model), second_batch=batch(1))
    ics.gradient_line(model, loss_fn, data, [0.1])
    ics.activation_stats(model, data)
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    loss_fn(model, data)
    assert not torch.equal(before["bn.num_batches_tracked"], model.bn.num_batches_tracked)  # a plain pass does


def test_random_draws_not_replayed():
    model = net(dropout=0.5)
    state = torch.get_rng_state()
    frame = ics.gradient_shift(model, loss_fn, batch(), unmoved(model))
    assert (frame["shift_l2"] == 0).all()
    assert torch.equal(state, torch.get_rng_state())
    first, second = gradient(model, batch()), gradient(model, batch())
    assert not np.allclose(flat(first), flat(second))  # another mask gives another gradient


@pytest.mark.parametrize("name", ["conv.weight", "bn.weight", "bn.bias", "mid.bias"])
def test_an_incomplete_copy_of_the_net(name):
    model = net()
    frame = ics.gradient_shift(model, loss_fn, batch(), moved(model, only={name})).set_index(["layer", "parameters"])
    assert frame.loc[("head", "weight"), "shift_l2"] > 1e-6  # biases, gamma and beta move the layers above, too


def test_layer_i_itself_updated_in_the_shifted_gradient():
    model, data = net(), batch()
    after = moved(model, only={"head.weight", "head.bias"})
    frame = ics.gradient_shift(model, loss_fn, data, after)
    assert (frame["shift_l2"] == 0).all()  # nothing before any layer moved
    unshifted = gradient(model, data)["head.weight"]
    with torch.no_grad():
        model.head.weight.copy_(after["head.weight"])
    assert (gradient(model, data)["head.weight"] - unshifted).norm() > 1e-6


def test_weights_restored_by_adding_and_subtracting():
    model = net(torch.float32)
    before = unmoved(model)
    after = moved(model, 0.37)
    ics.gradient_shift(model, loss_fn, batch(dtype=torch.float32), after)
    ics.gradient_line(model, loss_fn, batch(dtype=torch.float32), [0.1, 0.7])
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    naive = [((value + (after[name] - value)) - (after[name] - value)) != value for name, value in before.items()]
    assert torch.cat([changed.flatten() for changed in naive]).any()


def test_measuring_in_eval_mode():
    model, data = net(), batch()
    line = ics.gradient_line(model, loss_fn, data, [0.1])
    assert model.training
    assert model.bn.training
    assert line["loss"][0] == pytest.approx(loss_fn(model, data).item(), rel=1e-12)
    assert abs(line["loss"][0] - loss_fn(model.eval(), data).item()) > 1e-3


def test_scaled_gradients_recorded(tmp_path):
    model, data = net(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    expected = {name: float(value.norm()) for name, value in gradient(model, data).items()}
    with ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments={"gradients": 1}) as recorder:
        with recorder.step(data):
            scaler.scale(loss_fn(model, data)).backward()
            scaler.step(optimizer)
            scaler.update()
    rows = ics.open_run(tmp_path).table("gradients", where={"kind": "parameter"}).set_index("of")["gradient_norm"]
    for name, value in expected.items():
        assert rows[name] == pytest.approx(value, rel=1e-6, abs=1e-12), name


def test_one_hard_coded_layer_standing_for_the_net():
    frame = ics.gradient_shift(net(), loss_fn, batch(), moved(net()))
    assert list(frame["layer"].unique()) == ["conv", "mid", "head"]
    assert frame["shift_l2"].nunique() > 3


def test_bn_in_name_is_true_for_nobn():
    class NoBN(nn.Linear):
        """A layer whose name contains BN and which normalises nothing."""

    model = nn.Sequential(NoBN(4, 3), nn.ReLU(), nn.Linear(3, 2))
    frame = ics.activation_stats(model, torch.randn(5, 4))
    assert list(frame["layer"].unique()) == ["0", "2"]
    assert not frame["site"].isin(["normalized", "scaled"]).any()


@pytest.mark.parametrize("size", [1, 2, 7])
def test_iterating_a_tensor_output_over_its_batch_axis(size):
    model = net().eval()
    frame = ics.activation_stats(model, batch(size=size)[0])
    assert len(frame) == len(ics.activation_stats(model, batch(size=3)[0]))
    counts = frame.set_index(["layer", "site"])["count"]
    assert counts["conv", "preactivation"] == size * 3 * 2 * 2
    assert counts["head", "preactivation"] == size * 2


def test_sums_of_norms_called_a_norm(tmp_path):
    model, data = net(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parts = gradient(model, data)
    with ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments={"gradients": 1}) as recorder:
        with recorder.step(data):
            loss_fn(model, data).backward()
            optimizer.step()
    recorded = ics.open_run(tmp_path).table("steps")["gradient_norm"][0]
    assert recorded == pytest.approx(np.linalg.norm(flat(parts)), rel=1e-10)
    assert recorded < 0.9 * sum(float(value.norm()) for value in parts.values())


def test_micro_batch_gradients_recorded_where_the_accumulated_one_was_meant(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    micro = [batch(0), batch(1)]
    parts = [gradient(model, data)["head.weight"] for data in micro]
    with ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments={"gradients": 1}) as recorder:
        with recorder.step(micro):
            for data in micro:
                loss_fn(model, data).backward()
            optimizer.step()
    rows = ics.open_run(tmp_path).table("gradients", where={"of": "head.weight"})
    assert rows["gradient_norm"].tolist() == [pytest.approx(float((parts[0] + parts[1]).norm()), rel=1e-10)]
    assert abs(rows["gradient_norm"][0] - float(parts[1].norm())) > 1e-3
