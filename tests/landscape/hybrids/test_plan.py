"""What is planned for a chain of layers, from the definition written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ics.landscape import Objective, make_transition
from ics.landscape.hybrids.full_passes import full_passes
from ics.landscape.hybrids.plan import moved_alone, moved_names, plan_hybrids
from tests.landscape.nets import layers_of


def planned(moving, *, selected="01234", frozen=()):
    """The plan of five layers of one weight each, of which those in `moving` go from i to i + 0.5."""
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(5)))
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    objective = Objective(model, lambda model, x: model(x).sum(), torch.ones(1, 1))
    before = {f"{i}.weight": torch.full((1, 1), float(i)) for i in range(5)}
    after = {f"{name}.weight": before[f"{name}.weight"] + 0.5 for name in moving}
    transition = make_transition(objective, before=before, after=after)
    return plan_hybrids(transition, layers=layers_of(model, [(str(i),) for i in range(5)]), selected=selected)


def values(parameters):
    return [float(value) for value in parameters.values()]


def test_each_hybrid_has_moved_the_layers_before_its_own():
    plan = planned("01234")
    assert [values(hybrid.parameters) for hybrid in plan.hybrids] == [
        [0.0, 1.0, 2.0, 3.0, 4.0],
        [0.5, 1.0, 2.0, 3.0, 4.0],
        [0.5, 1.5, 2.0, 3.0, 4.0],
        [0.5, 1.5, 2.5, 3.0, 4.0],
        [0.5, 1.5, 2.5, 3.5, 4.0],
    ]
    assert [hybrid.updated for hybrid in plan.hybrids] == [
        tuple(f"{name}.weight" for name in "01234"[:number]) for number in range(5)
    ]
    assert [hybrid.layer.name for hybrid in plan.to_run] == ["1", "2", "3", "4"]


def test_a_hybrid_runs_only_if_something_before_it_moved_and_it_is_trained():
    plan = planned("13", frozen="34")
    assert [hybrid.moved for hybrid in plan.hybrids] == [False, False, True, True, True]
    assert [hybrid.wanted for hybrid in plan.hybrids] == [("0.weight",), ("1.weight",), ("2.weight",), (), ()]
    assert [hybrid.layer.name for hybrid in plan.to_run] == ["2"]


def test_what_a_hybrid_does_not_share_with_later_ones_is_its_own_layer_and_what_moves_behind_it():
    plan = planned("13")
    assert [sorted(name[0] for name in hybrid.unlike_later) for hybrid in plan.hybrids] == [
        ["0", "1", "3"],
        ["1", "3"],
        ["2", "3"],
        ["3"],
        ["4"],
    ]


@pytest.mark.parametrize("selected", ["4", "13", "024"])
def test_a_hybrid_is_the_same_whichever_other_layers_are_selected(selected):
    everything, some = planned("0123"), planned("0123", selected=selected)
    assert [hybrid.layer.name for hybrid in some.hybrids] == list(selected)
    for hybrid, same in zip(some.hybrids, everything.only(selected).hybrids, strict=True):
        assert values(hybrid.parameters) == values(same.parameters)
        assert (hybrid.updated, hybrid.moved) == (same.updated, same.moved)


@pytest.mark.parametrize(
    ("size", "wanted"), [(1, ["1", "2", "3", "4"]), (3, ["123", "4"]), (4, ["1234"]), (None, ["1234"])]
)
def test_chunks_are_consecutive_hybrids_that_need_a_pass(size, wanted):
    found = ["".join(hybrid.layer.name for hybrid in chunk) for chunk in planned("01234").chunks(size)]
    assert found == wanted


def test_nothing_moved_leaves_nothing_to_run():
    plan = planned("")
    assert (plan.to_run, list(plan.chunks(None)), list(plan.chunks(2))) == ((), [], [])


def test_one_layer_moves_alone():
    plan = planned("13")
    transition, layers = plan.transition, plan.layers
    assert [moved_names(transition, layer) for layer in layers] == [(), ("1.weight",), (), ("3.weight",), ()]
    assert values(moved_alone(transition, layers[3])) == [0.0, 1.0, 2.0, 3.5, 4.0]
    assert moved_alone(transition, layers[2]) is None


def test_what_another_way_has_found_gets_no_pass():
    plan = planned("01234")
    found = {"2": {"2.weight": torch.tensor([[7.0]])}}
    gradients = {layer.name: float(each[f"{layer.name}.weight"]) for layer, each in full_passes(plan, found=found)}
    # dL/dw_i is the product of the other weights at the hybrid, of which the first is 0 at t and 0.5 at t+1.
    assert gradients == {
        "0": 24.0,
        "1": 0.5 * 2 * 3 * 4,
        "2": 7.0,
        "3": 0.5 * 1.5 * 2.5 * 4,
        "4": 0.5 * 1.5 * 2.5 * 3.5,
    }
