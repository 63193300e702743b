from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ics.errors import SelectionError, UsageError
from ics.landscape import Objective, gradient_shift, make_transition
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.plan import plan_hybrids
from ics.records import Layer
from tests.landscape.nets import NETS, OPTIMIZERS, cross_entropy, layers_of, take_step
from tests.reference.gradient_shift_kpass import as_vector, loss_and_gradients, shift_numbers, shifted_gradients

SHIFT = ("gradient_norm", "shifted_gradient_norm", "shift_l2", "shift_cosine", "shift_relative")


def rows_of(block):
    names = list(block.columns)
    return [dict(zip(names, cells, strict=True)) for cells in zip(*block.columns.values(), strict=True)]


def measured(taken, **options):
    return rows_of(gradient_shift(taken.transition(), layers=taken.layers, **options))


def gradients_of(taken):
    names = [layer.name for layer in taken.layers]
    plan = plan_hybrids(taken.transition(), layers=taken.layers, selected=names)
    return {layer.name: gradients for layer, gradients in full_passes(plan)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("name", NETS)
def test_gradients_equal_the_reference_bit_for_bit_in_float32(name, size, optimizer):
    taken = take_step(name, size=size, optimizer=optimizer)
    wanted = shifted_gradients(
        taken.model, taken.loss_fn, taken.batch, taken.before, taken.after, taken.layers, **taken.circumstances
    )
    found = gradients_of(taken)
    assert found.keys() == wanted.keys()
    for layer, gradients in wanted.items():
        for parameter, gradient in gradients.items():
            assert torch.equal(found[layer][parameter], gradient), (layer, parameter)


@pytest.mark.parametrize("name", NETS)
def test_numbers_equal_the_reference_in_float64(name):
    taken = take_step(name, dtype=torch.float64)
    arguments = (taken.model, taken.loss_fn, taken.batch)
    shifted = shifted_gradients(*arguments, taken.before, taken.after, taken.layers, **taken.circumstances)
    _, present = loss_and_gradients(*arguments, taken.before, list(taken.before), **taken.circumstances)
    rows = iter(measured(taken))
    for layer in taken.layers:
        for parameters, names in (("weight", layer.weight), ("all", layer.parameters)):
            row = next(rows)
            assert (row["layer"], row["layer_index"], row["parameters"]) == (layer.name, layer.index, parameters)
            g, g_shifted = (as_vector(each, names, taken.before) for each in (present, shifted[layer.name]))
            for column, value in shift_numbers(g, g_shifted).items():
                assert row[column] == pytest.approx(value, rel=1e-12, abs=1e-15), (layer.name, parameters, column)
    assert next(rows, None) is None


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_at_the_present_point_is_the_one_training_used(name):
    taken = take_step(name)
    found = taken.transition().gradients
    assert all(torch.equal(found[parameter], gradient) for parameter, gradient in taken.used.items())


@pytest.mark.parametrize("name", NETS)
def test_the_first_layer_has_shift_0_and_cosine_1_and_the_others_move(name):
    weights = [row for row in measured(take_step(name)) if row["parameters"] == "weight"]
    assert (weights[0]["shift_l2"], weights[0]["shift_cosine"], weights[0]["shift_relative"]) == (0.0, 1.0, 0.0)
    assert all(row["shift_l2"] > 0 and row["shift_cosine"] < 1 for row in weights[1:])


@pytest.mark.parametrize("name", NETS)
def test_a_learning_rate_of_0_shifts_nothing(name):
    taken = take_step(name)
    rows = rows_of(gradient_shift(taken.transition(after={}), layers=taken.layers))
    assert all((row["shift_l2"], row["shift_cosine"]) == (0.0, 1.0) for row in rows)


@pytest.mark.parametrize("name", NETS)
def test_four_times_the_loss_is_four_times_the_shift(name):
    taken = take_step(name)
    four = taken.objective(loss_fn=lambda model, batch: 4 * cross_entropy(model, batch))
    rows = rows_of(gradient_shift(taken.transition(objective=four), layers=taken.layers))
    for row, single in zip(rows, measured(taken), strict=True):
        assert row["shift_l2"] == 4 * single["shift_l2"]
        assert row["gradient_norm"] == 4 * single["gradient_norm"]
        assert (row["shift_cosine"], row["shift_relative"]) == (single["shift_cosine"], single["shift_relative"])


def test_two_linear_layers_by_hand():
    rng = np.random.default_rng(0)
    w1, w2, x, y = (rng.normal(size=shape) for shape in [(3, 4), (2, 3), (4, 5), (2, 5)])
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).double()
    before = {"0.weight": torch.from_numpy(w1), "1.weight": torch.from_numpy(w2)}
    lr = 0.05
    error = w2 @ w1 @ x - y
    g1, g2 = w2.T @ error @ x.T, error @ (w1 @ x).T
    w1_after = w1 - lr * g1
    g2_shifted = (w2 @ w1_after @ x - y) @ (w1_after @ x).T

    def half_squares(model, batch):
        return ((model(batch[0].T).T - batch[1]) ** 2).sum() / 2

    objective = Objective(model, half_squares, (torch.from_numpy(x), torch.from_numpy(y)))
    after = {"0.weight": torch.from_numpy(w1_after), "1.weight": torch.from_numpy(w2 - lr * g2)}
    block = gradient_shift(
        make_transition(objective, before=before, after=after), layers=layers_of(model, [("0",), ("1",)])
    )
    row = rows_of(block)[2]
    for column, value in shift_numbers(g2.ravel(), g2_shifted.ravel()).items():
        assert row[column] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", ["residual", "normalised_mlp"])
def test_the_floor_is_the_gradient_of_the_second_batch_at_the_same_point(name):
    taken = take_step(name, dtype=torch.float64)
    other = (taken.batch[0].flip(0) * 0.5, taken.batch[1])
    transition = taken.transition(second=taken.objective(batch=other))
    names = list(taken.before)
    arguments = (taken.model, taken.loss_fn)
    _, g = loss_and_gradients(*arguments, taken.batch, taken.before, names, **taken.circumstances)
    _, g_second = loss_and_gradients(*arguments, other, taken.before, names, **taken.circumstances)
    for row, layer in zip(rows_of(gradient_shift(transition, layers=taken.layers))[1::2], taken.layers, strict=True):
        vectors = [as_vector(each, layer.parameters, taken.before) for each in (g, g_second)]
        wanted = shift_numbers(*vectors)
        assert row["floor_l2"] == pytest.approx(wanted["shift_l2"], rel=1e-12)
        assert row["floor_cosine"] == pytest.approx(wanted["shift_cosine"], rel=1e-12)
        assert row["floor_relative"] == pytest.approx(wanted["shift_relative"], rel=1e-12)
        assert row["null_reason"] is None


def test_without_a_second_batch_the_floor_is_null_and_says_so():
    row = measured(take_step("reused"))[0]
    assert row["floor_l2"] is row["floor_cosine"] is row["floor_relative"] is None
    assert row["null_reason"] == "floor: no second batch"


def test_selected_layers_have_the_rows_they_have_among_all():
    taken = take_step("residual")
    rows = measured(taken)
    chosen = [taken.layers[3], taken.layers[1]]
    assert measured(taken, selected=chosen) == rows[2:4] + rows[6:8]


def test_layers_with_one_missing_are_refused():
    taken = take_step("reused")
    with pytest.raises(UsageError, match=r"every layer.*selected="):
        gradient_shift(taken.transition(), layers=taken.layers[1:])
    with pytest.raises(SelectionError, match="no layer is named 'head'"):
        gradient_shift(taken.transition(), layers=taken.layers[:2], selected=taken.layers[2:])


class Bias(nn.Module):
    def __init__(self, num_channels):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(num_channels))

    def forward(self, x):
        return x + self.bias.view(-1, *[1] * (x.ndim - 2))


def shift_of_a_bias(following, *, scale=1.0, dtype=torch.float32):
    """The row of a layer that is a bias alone, with `following` directly behind it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), Bias(3), following, nn.Flatten(), nn.Linear(12, 2)).to(dtype)
    bias = Layer("1", 1, "Bias", ("1", "2"), ("1.bias",), ("1.bias",), (3,), 3)
    first, last = layers_of(model, [("0",), ("4",)])
    x = torch.randn(5, 2, 2, 2).to(dtype)
    objective = Objective(model, lambda model, x: scale * model(x).square().mean(), x)
    before = objective.parameters
    after = {name: value * 1.1 for name, value in before.items()}
    transition = make_transition(objective, before=before, after=after)
    return rows_of(gradient_shift(transition, layers=[first, bias, replace(last, index=2)]))[2]


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(3, affine=False), nn.InstanceNorm2d(3), nn.GroupNorm(3, 3, affine=False)]
)
def test_a_bias_that_the_normalisation_subtracts_again_has_no_direction(norm):
    row = shift_of_a_bias(norm)
    assert row["gradient_norm"] > 0  # rounding, which would have a cosine; its size depends on the machine's kernels
    assert shift_of_a_bias(norm, dtype=torch.float64)["gradient_norm"] < 1e-7 * row["gradient_norm"]
    assert row["shift_cosine"] is row["shift_relative"] is None
    assert "by construction" in row["null_reason"]


@pytest.mark.parametrize("following", [nn.BatchNorm2d(3, affine=False).eval(), nn.GroupNorm(1, 3), nn.Identity()])
def test_a_genuine_gradient_is_a_number_however_small(following):
    row = shift_of_a_bias(following, scale=1e-30)
    assert 0 < row["gradient_norm"] < 1e-25
    assert row["shift_relative"] > 0
    assert -1 <= row["shift_cosine"] < 1
    assert row["null_reason"] == "floor: no second batch"


def test_a_gradient_of_exactly_zero_has_no_direction():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    nn.init.constant_(model[0].bias, -100.0)  # dead units
    objective = Objective(model, lambda model, x: model(x).square().sum(), torch.ones(4, 2))
    transition = make_transition(objective, before=objective.parameters, after={})
    row = rows_of(gradient_shift(transition, layers=layers_of(model, [("0",), ("2",)])))[0]
    assert (row["gradient_norm"], row["shift_l2"]) == (0, 0)
    assert row["shift_cosine"] is row["shift_relative"] is None
    assert "G is exactly zero" in row["null_reason"]


def test_parameters_that_are_frozen_or_unused_are_null_with_their_reason():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(1, 1))
    model[0].requires_grad_(False)
    objective = Objective(model, lambda model, x: model[1](model[0](x)).square().sum(), torch.ones(4, 2))
    transition = make_transition(objective, before=objective.parameters, after={})
    rows = rows_of(gradient_shift(transition, layers=layers_of(model, [("0",), ("1",), ("2",)])))
    assert rows[0]["gradient_norm"] is None
    assert "frozen" in rows[0]["null_reason"]
    assert rows[2]["shift_cosine"] == 1.0
    assert (rows[4]["gradient_norm"], rows[4]["shift_cosine"]) == (0, None)
    assert "does not depend" in rows[4]["null_reason"]


def test_a_gradient_that_is_not_finite_is_stored_as_it_is():
    taken = take_step("reused")
    taken.batch[0][0, 0] = float("nan")
    row = measured(taken)[2]
    assert all(math.isnan(row[column]) for column in SHIFT)


def test_no_sum_of_norms_and_no_lone_weight_stands_for_the_layer():
    taken = take_step("normalised_mlp", dtype=torch.float64)
    weight, whole = measured(taken)[2:4]
    assert weight["shift_l2"] < whole["shift_l2"]
    gradients = full_passes(plan_hybrids(taken.transition(), layers=taken.layers, selected=[taken.layers[1].name]))
    shifted = next(gradients)[1]
    parts = [F.mse_loss(taken.transition().gradients[name], shifted[name], reduction="sum") for name in shifted]
    assert len(parts) == 4
    assert whole["shift_l2"] ** 2 == pytest.approx(float(sum(parts)), rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 9])
def test_chunks_of_layers_give_the_same_rows(chunk):
    taken = take_step("residual")
    assert measured(taken, chunk=chunk) == measured(taken)


@pytest.mark.parametrize("options", [{"chunk": 0}, {"chunk": 2.5}, {"chunk": True}, {"chunk": 2, "batched": True}])
def test_a_chunk_that_makes_no_sense(options):
    with pytest.raises(UsageError, match="gradient_shift expects chunk="):
        measured(take_step("residual"), **options)
