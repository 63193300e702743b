"""Attribution of the shift against brute force on copies of the model, and by hand, in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ics.errors import SelectionError, UsageError
from ics.landscape import Objective, make_transition
from ics.landscape.measures.attribution import attribution
from ics.records import Layer
from ics.schema import ATTRIBUTION, REMAINDER
from tests.landscape.nets import NETS, layers_of, take_step
from tests.reference.gradient_shift_kpass import as_vector, loss_and_gradients, shifted_gradients

NUMBERS = ("shift_l2", "fraction", "whole_shift_cosine", "share")


def rows_of(block):
    names = list(block.columns)
    rows = [dict(zip(names, cells, strict=True)) for cells in zip(*block.columns.values(), strict=True)]
    found = {(row["layer"], row["source_layer"], row["parameters"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def linear_net(sizes, *, updates=None, seed=0):
    """A deep linear net without biases, L = <C, W_k ... W_1 X> for a random C, and a random update."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=shape) for shape in zip(sizes[1:], sizes, strict=False)]
    deltas = [rng.normal(size=w.shape) * (1 if updates is None else updates[i]) for i, w in enumerate(weights)]
    x, c = rng.normal(size=(sizes[0], 5)), rng.normal(size=(sizes[-1], 5))
    model = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)]).double()
    objective = Objective(
        model, lambda model, batch: (model(batch[0].T).T * batch[1]).sum(), (torch.from_numpy(x), torch.from_numpy(c))
    )
    before = {f"{i}.weight": torch.from_numpy(w) for i, w in enumerate(weights)}
    after = {f"{i}.weight": torch.from_numpy(w + d) for i, (w, d) in enumerate(zip(weights, deltas, strict=True))}
    layers = layers_of(model, [(str(i),) for i in range(len(weights))])
    return make_transition(objective, before=before, after=after), layers, weights, deltas, x, c


def expect(row, part, whole):
    part, whole = part.ravel(), whole.ravel()
    length = np.linalg.norm(whole)
    assert row["shift_l2"] == pytest.approx(np.linalg.norm(part), rel=1e-10)
    assert row["whole_shift_l2"] == pytest.approx(length, rel=1e-10)
    assert row["fraction"] == pytest.approx(np.linalg.norm(part) / length, rel=1e-10)
    assert row["share"] == pytest.approx(part @ whole / length**2, rel=1e-8, abs=1e-12)
    assert row["whole_shift_cosine"] == pytest.approx(part @ whole / length / np.linalg.norm(part), rel=1e-8, abs=1e-12)


def test_two_linear_layers_by_hand():
    transition, layers, _, (d1, _), x, c = linear_net((4, 3, 2))
    rows = rows_of(attribution(transition, layers=layers))
    whole = c @ (d1 @ x).T  # G_2 = C (W_1 X)^T
    expect(rows["1", "0", "weight"], whole, whole)
    assert rows["1", "0", "weight"]["share"] == 1
    left = rows["1", REMAINDER, "weight"]
    assert (left["shift_l2"], left["fraction"], left["share"]) == (0.0, 0.0, 0.0)  # one source alone: no interaction
    assert left["whole_shift_cosine"] is None
    assert "exactly zero" in left["null_reason"]
    assert left["source_index"] == -1
    first = rows["0", REMAINDER, "all"]
    assert first["shift_l2"] == first["whole_shift_l2"] == 0
    assert first["fraction"] is first["share"] is None
    assert "the shift is exactly zero" in first["null_reason"]
    assert set(rows) == {
        (layer, source, parameters)
        for layer, source in [("0", REMAINDER), ("1", "0"), ("1", REMAINDER)]
        for parameters in ("weight", "all")
    }


def test_three_linear_layers_leave_the_product_of_the_two_updates():
    transition, layers, (w1, w2, _), (d1, d2, _), x, c = linear_net((4, 3, 3, 2))
    rows = rows_of(attribution(transition, layers=layers))
    parts = {"0": c @ (w2 @ d1 @ x).T, "1": c @ (d2 @ w1 @ x).T, REMAINDER: c @ (d2 @ d1 @ x).T}
    whole = sum(parts.values())
    for source, part in parts.items():
        expect(rows["2", source, "weight"], part, whole)
    assert rows["2", REMAINDER, "weight"]["fraction"] > 0.1
    assert sum(rows["2", source, "weight"]["share"] for source in parts) == pytest.approx(1.0, rel=1e-12)


class Summed(nn.Module):
    """W_3 (W_1 x + W_2 x): each gradient is linear in the others apart, so that no two layers interact in G_3."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.c(self.a(x) + self.b(x))


def test_without_interactions_the_parts_add_up_to_the_shift():
    torch.manual_seed(0)
    model = Summed().double()
    objective = Objective(model, lambda model, x: model(x)[:, 0].sum(), torch.randn(5, 4, dtype=torch.float64))
    before = objective.parameters
    after = {name: value + torch.randn_like(value) for name, value in before.items()}
    layers = layers_of(model, [("a",), ("b",), ("c",)])
    rows = rows_of(attribution(make_transition(objective, before=before, after=after), layers=layers))
    for parameters in ("weight", "all"):
        assert rows["c", REMAINDER, parameters]["fraction"] < 1e-14
        shares = [rows["c", source, parameters]["share"] for source in "ab"]
        assert sum(shares) == pytest.approx(1.0, rel=1e-12)
        assert min(map(abs, shares)) > 0.01


@pytest.mark.parametrize("name", NETS)
def test_numbers_equal_brute_force_with_one_copy_per_pair_of_layers(name):
    taken = take_step(name, dtype=torch.float64)
    rows = rows_of(attribution(taken.transition(), layers=taken.layers))
    arguments, circumstances = (taken.model, taken.loss_fn, taken.batch), taken.circumstances
    shifted = shifted_gradients(*arguments, taken.before, taken.after, taken.layers, **circumstances)
    _, present = loss_and_gradients(*arguments, taken.before, list(taken.before), **circumstances)
    for number, layer in enumerate(taken.layers):
        for parameters, names in (("weight", layer.weight), ("all", layer.parameters)):
            g = as_vector(present, names, taken.before)
            whole = as_vector(shifted[layer.name], names, taken.before) - g
            left = whole
            for source in taken.layers[:number]:
                values = taken.before | {each: taken.after[each] for each in source.parameters}
                _, there = loss_and_gradients(*arguments, values, names, **circumstances)
                part = as_vector(there, names, taken.before) - g
                expect(rows.pop((layer.name, source.name, parameters)), part, whole)
                left = left - part
            row = rows.pop((layer.name, REMAINDER, parameters))
            assert row["shift_l2"] == pytest.approx(np.linalg.norm(left), rel=1e-8, abs=1e-14)
            assert (row["shift_l2"] > 1e-12) == (number > 1)
    assert not rows


def test_one_pass_per_source_and_one_per_shift():
    transition, layers, *_ = linear_net((2, 2, 2, 2, 2, 2))
    count = 0
    loss_fn = transition.objective._loss_fn

    def counted(model, batch):
        nonlocal count
        count += 1
        return loss_fn(model, batch)

    transition.objective._loss_fn = counted
    attribution(transition, layers=layers)
    assert count == 4 + 4  # five layers: the last is no source, the first has no shift
    count = 0
    attribution(transition, layers=layers, selected=[layers[2]])
    assert count == 2 + 1


def test_a_source_that_did_not_move_has_no_part():
    transition, layers, *_ = linear_net((4, 3, 3, 2), updates=[1, 0, 1])
    rows = rows_of(attribution(transition, layers=layers))
    still = rows["2", "1", "weight"]
    assert (still["shift_l2"], still["fraction"], still["share"]) == (0.0, 0.0, 0.0)
    assert rows["2", "0", "weight"]["share"] == 1.0
    assert rows["2", REMAINDER, "weight"]["shift_l2"] == 0


def test_rows_stand_by_layer_parameters_and_source_and_have_the_columns_of_the_table():
    transition, layers, *_ = linear_net((4, 3, 3, 2))
    block = attribution(transition, layers=layers, selected=[layers[2], layers[0]])
    assert ["step", *block.columns] == list(ATTRIBUTION.column_names)
    assert block.columns["source_index"] == [-1, -1, 0, 1, -1, 0, 1, -1]
    assert block.columns["layer_index"] == [0, 0, 2, 2, 2, 2, 2, 2]
    assert block.columns["parameters"] == ["weight", "all", *["weight"] * 3, *["all"] * 3]


def test_a_bias_in_front_of_batch_norm_has_no_fraction():
    taken = take_step("normalised_mlp")
    layer = taken.layers[1]
    bias_alone = Layer(layer.name, 1, layer.kind, layer.modules, ("5.bias",), layer.parameters, (), 0)
    rows = rows_of(attribution(taken.transition(), layers=[taken.layers[0], bias_alone, taken.layers[2]]))
    row = rows["5", "1", "weight"]
    assert row["shift_l2"] is not None
    assert row["fraction"] is row["share"] is row["whole_shift_cosine"] is None
    assert "by construction" in row["null_reason"]


def test_frozen_layers_are_null_and_values_that_are_not_finite_are_kept():
    transition, layers, *_ = linear_net((4, 3, 3, 2))
    model = transition.objective.model
    model[1].weight.requires_grad_(False)
    x, c = transition.objective.batches[0]
    objective = Objective(model, transition.objective._loss_fn, (x * torch.inf, c))
    moved = make_transition(objective, before=transition.before, after=transition.after)
    rows = rows_of(attribution(moved, layers=layers))
    assert rows["1", "0", "weight"]["shift_l2"] is None
    assert "frozen" in rows["1", "0", "weight"]["null_reason"]
    assert all(np.isnan(rows["2", "0", "weight"][column]) for column in NUMBERS)


def test_layers_that_are_not_all_or_not_there_are_refused():
    transition, layers, *_ = linear_net((2, 2, 2))
    with pytest.raises(UsageError, match="attribution expects every layer"):
        attribution(transition, layers=layers[1:])
    with pytest.raises(SelectionError, match="no layer is named '1'"):
        attribution(transition, layers=layers[:1], selected=layers[1:])
