"""The linearised shift against closed forms, finite differences and the order of what it leaves out, in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ics.errors import SelectionError, UsageError
from ics.landscape import Objective, gradient_shift, make_transition
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.plan import plan_hybrids
from ics.landscape.measures.linearised import compare_linearised, linearised_shift
from ics.records import Layer
from tests.landscape.nets import NETS, cross_entropy, layers_of, take_step

SIZES = (3, 2, 4)


class Quadratic(nn.Module):
    """Three vectors of parameters; the loss is w.Hw/2 + c.w of their concatenation."""

    def __init__(self):
        super().__init__()
        for number, size in enumerate(SIZES):
            self.register_parameter(f"w{number}", nn.Parameter(torch.zeros(size, dtype=torch.float64)))


def half_quadratic(model, batch):
    matrix, slope = batch
    w = torch.cat(list(model.parameters()))
    return w @ matrix @ w / 2 + slope @ w


def quadratic(seed=0):
    rng = np.random.default_rng(seed)
    root, slope = rng.normal(size=(9, 9)), rng.normal(size=9)
    matrix = root + root.T
    model = Quadratic()
    objective = Objective(model, half_quadratic, (torch.from_numpy(matrix), torch.from_numpy(slope)))
    before = {f"w{number}": torch.from_numpy(rng.normal(size=size)) for number, size in enumerate(SIZES)}
    delta = {name: torch.from_numpy(rng.normal(size=value.shape)) for name, value in before.items()}
    after = {name: value + delta[name] for name, value in before.items()}
    layers = [Layer(f"w{i}", i, "Quadratic", ("",), (f"w{i}",), (f"w{i}",), (n,), n) for i, n in enumerate(SIZES)]
    return make_transition(objective, before=before, after=after), layers, matrix, delta


def shifted_of(transition, layers):
    names = [layer.name for layer in layers]
    plan = plan_hybrids(transition, layers=layers, selected=names)
    return {layer.name: found for layer, found in full_passes(plan)}


def compared(transition, layers):
    linearised = linearised_shift(transition, layers=layers)
    return compare_linearised(transition, linearised, shifted_of(transition, layers), layers=layers)


def test_on_a_quadratic_it_is_the_shift():
    transition, layers, matrix, delta = quadratic()
    found = linearised_shift(transition, layers=layers)
    flat = np.concatenate([value.numpy() for value in delta.values()])
    ends = np.cumsum((0, *SIZES))
    for number, layer in enumerate(layers):
        rows, before = slice(ends[number], ends[number + 1]), slice(0, ends[number])
        wanted = matrix[rows, before] @ flat[before]
        assert found[layer.name][layer.name].numpy() == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    columns = compared(transition, layers)
    assert columns["unexplained_relative"][:2] == [None, None]
    assert all("exactly zero" in reason for reason in columns["null_reason"][:2])
    assert max(columns["unexplained_relative"][2:]) < 1e-10
    assert columns["linearised_cosine"][2:] == pytest.approx([1.0] * 4, abs=1e-12)
    assert columns["null_reason"][2:] == [None] * 4


def test_two_linear_layers_by_hand():
    rng = np.random.default_rng(0)
    w1, w2, x, y, d1, d2 = (rng.normal(size=size) for size in [(3, 4), (2, 3), (4, 5), (2, 5), (3, 4), (2, 3)])
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).double()

    def half_squares(model, batch):
        return ((model(batch[0].T).T - batch[1]) ** 2).sum() / 2

    objective = Objective(model, half_squares, (torch.from_numpy(x), torch.from_numpy(y)))
    before = {"0.weight": torch.from_numpy(w1), "1.weight": torch.from_numpy(w2)}
    after = {"0.weight": torch.from_numpy(w1 + d1), "1.weight": torch.from_numpy(w2 + d2)}
    layers = layers_of(model, [("0",), ("1",)])
    found = linearised_shift(make_transition(objective, before=before, after=after), layers=layers)
    wanted = (w2 @ d1 @ x) @ (w1 @ x).T + (w2 @ w1 @ x - y) @ (d1 @ x).T
    assert found["1"]["1.weight"].numpy() == pytest.approx(wanted, rel=1e-12)
    assert not found["0"]["0.weight"].any()


@pytest.mark.parametrize("name", NETS)
def test_it_is_the_derivative_of_the_gradient_along_the_update_of_the_layers_before(name):
    """Oracle: central differences."""
    taken = take_step(name, dtype=torch.float64, warm_up=0)
    transition = taken.transition()
    found = linearised_shift(transition, layers=taken.layers)
    step = 1e-5
    for number, layer in enumerate(taken.layers):
        earlier = [parameter for before in taken.layers[:number] for parameter in before.parameters]
        points = [
            dict(taken.before)
            | {each: taken.before[each] + sign * step * (taken.after[each] - taken.before[each]) for each in earlier}
            for sign in (1, -1)
        ]
        up, down = (taken.objective()(point).gradients for point in points)
        wanted = {name: (up[name] - down[name]) / (2 * step) for name in layer.parameters}
        scale = max(float(value.abs().max()) for value in wanted.values())
        for parameter, value in wanted.items():
            assert torch.allclose(found[layer.name][parameter], value, rtol=1e-6, atol=1e-6 * scale), parameter
        assert (scale > 0) == (number > 0)


def test_what_it_leaves_out_shrinks_with_the_square_of_the_update():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    batch = (torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3)
    layers = layers_of(model, [("0",), ("2",), ("4",)])
    objective = Objective(model, cross_entropy, batch)
    before = objective.parameters
    direction = {name: torch.randn_like(value) for name, value in before.items()}
    left = []
    for size in (0.02, 0.01, 0.005):
        after = {name: value + size * direction[name] for name, value in before.items()}
        columns = compared(make_transition(objective, before=before, after=after), layers)
        left.append(np.array(columns["unexplained_relative"][2:]))
        assert min(columns["linearised_cosine"][2:]) > 0.99
    for coarse, fine in itertools.pairwise(left):
        assert coarse / fine == pytest.approx(2.0, rel=0.1)  # relative to a shift that is itself O(update)


def test_a_unit_that_the_update_switches_on_is_not_seen():
    """w_2 relu(w_1 x): dL/dw_2 goes from 0 to relu(w_1 + d_1), and the Hessian at an idle unit is zero."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
    objective = Objective(model, lambda model, x: model(x).sum(), torch.ones(1, 1, dtype=torch.float64))
    before = {
        name: torch.full((1, 1), value, dtype=torch.float64) for name, value in [("0.weight", -1), ("2.weight", 3)]
    }
    transition = make_transition(objective, before=before, after={"0.weight": -before["0.weight"]})
    columns = compared(transition, layers_of(model, [("0",), ("2",)]))
    assert (columns["linearised_l2"][2], columns["unexplained_relative"][2]) == (0.0, 1.0)
    assert columns["linearised_cosine"][2] is None
    assert "linearised shift is exactly zero" in columns["null_reason"][2]


def test_comparison_measures_length_angle_and_what_is_left():
    transition, layers, _, _ = quadratic()
    shift = shifted_of(transition, layers)["w1"]["w1"] - transition.gradients["w1"]
    wrong = torch.tensor([1.0, -2.0], dtype=torch.float64)
    columns = compare_linearised(
        transition, {"w1": {"w1": wrong}}, {"w1": shifted_of(transition, layers)["w1"]}, layers=layers[1:2]
    )
    s, w = shift.numpy(), wrong.numpy()
    assert columns["linearised_l2"] == pytest.approx([5**0.5] * 2, rel=1e-12)
    cosine = s @ w / np.linalg.norm(s) / np.linalg.norm(w)
    assert columns["linearised_cosine"] == pytest.approx([cosine] * 2, rel=1e-12)
    assert columns["unexplained_relative"] == pytest.approx([np.linalg.norm(s - w) / np.linalg.norm(s)] * 2, rel=1e-12)
    assert columns["parameters"] == ["weight", "all"]


def test_micro_batches_add_up():
    taken = take_step("reused", dtype=torch.float64)
    taken.model.eval()
    half = [tuple(part[:3] for part in taken.batch), tuple(part[3:] for part in taken.batch)]
    separate = [
        linearised_shift(taken.transition(objective=taken.objective(batch=each)), layers=taken.layers) for each in half
    ]
    together = Objective(taken.model, cross_entropy, half, accumulate=True, buffers=taken.buffers)
    found = linearised_shift(taken.transition(objective=together), layers=taken.layers)
    for layer, gradients in found.items():
        for name, value in gradients.items():
            assert torch.allclose(value, separate[0][layer][name] + separate[1][layer][name], rtol=1e-10, atol=1e-14)


def test_a_frozen_layer_that_was_moved_by_hand_has_its_part():
    transition, layers, matrix, delta = quadratic()
    model = transition.objective.model
    model.w0.requires_grad_(False)
    objective = Objective(model, half_quadratic, transition.objective.batches[0])
    frozen = make_transition(objective, before=transition.before, after=transition.after)
    found = linearised_shift(frozen, layers=layers)
    assert found["w0"] == {}
    assert found["w1"]["w1"].numpy() == pytest.approx(matrix[3:5, :3] @ delta["w0"].numpy(), rel=1e-12)
    columns = compared(frozen, layers)
    assert columns["linearised_l2"][:2] == [None, None]
    assert "frozen" in columns["null_reason"][0]


def test_a_bias_in_front_of_batch_norm_has_no_angle():
    taken = take_step("normalised_mlp", dtype=torch.float64)
    layer = taken.layers[1]
    bias_alone = Layer(layer.name, 1, layer.kind, layer.modules, ("5.bias",), layer.parameters, (), 0)
    layers = [taken.layers[0], bias_alone, taken.layers[2]]
    columns = compared(taken.transition(), layers)
    assert columns["linearised_cosine"][2] is columns["unexplained_relative"][2] is None
    assert "by construction" in columns["null_reason"][2]
    assert columns["unexplained_relative"][3] > 0


def test_selected_layers_are_what_they_are_among_all():
    taken = take_step("residual", dtype=torch.float64)
    every = linearised_shift(taken.transition(), layers=taken.layers)
    some = linearised_shift(taken.transition(), layers=taken.layers, selected=[taken.layers[3]])
    assert list(some) == ["conv3"]
    assert all(torch.allclose(value, every["conv3"][name], rtol=1e-12) for name, value in some["conv3"].items())
    with pytest.raises(UsageError, match=r"linearised_shift expects every layer"):
        linearised_shift(taken.transition(), layers=taken.layers[1:])
    with pytest.raises(SelectionError, match="no layer is named 'head'"):
        linearised_shift(taken.transition(), layers=taken.layers[:2], selected=taken.layers[4:])


def test_the_table_holds_it_on_request_in_the_rows_of_the_shift():
    transition, layers, matrix, delta = quadratic()
    plain = gradient_shift(transition, layers=layers).columns
    table = gradient_shift(transition, layers=layers, selected=layers[1:], linearised=True).columns
    assert plain["linearised_l2"] == [None] * 6
    assert table["layer"] == ["w1", "w1", "w2", "w2"]
    parts = np.split(np.arange(9), np.cumsum(SIZES)[:-1])
    for row, layer in enumerate((1, 1, 2, 2)):
        moved = np.concatenate(parts[:layer])
        update = np.concatenate([delta[f"w{number}"].numpy() for number in range(layer)])
        expected = np.linalg.norm(matrix[np.ix_(parts[layer], moved)] @ update)
        assert table["linearised_l2"][row] == pytest.approx(expected, rel=1e-12)
        assert table["linearised_l2"][row] == pytest.approx(table["shift_l2"][row], rel=1e-10)  # a quadratic is linear
        assert table["linearised_cosine"][row] == pytest.approx(1, abs=1e-12)
        assert table["unexplained_relative"][row] < 1e-10


def test_the_first_layers_linearisation_is_null_with_its_reason_once():
    transition, layers, _, _ = quadratic()
    table = gradient_shift(transition, layers=layers, linearised=True).columns
    assert table["linearised_l2"][0] == 0
    assert table["unexplained_relative"][0] is None
    assert "floor: no second batch" in table["null_reason"][0]
    assert table["null_reason"][0].count("exactly zero") == 1


def test_a_frozen_layer_behind_one_that_moved_has_no_part_and_no_number():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)
    ).double()
    model[1].requires_grad_(False)
    objective = Objective(model, lambda model, x: model(x).square().sum(), torch.ones(4, 3, dtype=torch.float64))
    before = objective.parameters
    transition = make_transition(objective, before=before, after={"0.weight": 1.01 * before["0.weight"]})
    layers = layers_of(model, [("0",), ("1",), ("2",)])
    assert linearised_shift(transition, layers=layers)["1"] == {}
    columns = compared(transition, layers)
    assert "frozen" in columns["null_reason"][2]
    assert 0 < columns["unexplained_relative"][4] < 0.1
