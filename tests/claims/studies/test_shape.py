"""The study of shapes against training and looking by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import ics
from ics.claims import BUDGETS, base
from ics.claims.measures.unit_shapes import Shapes, change, describe
from ics.claims.method.study import find_function, run_study
from ics.claims.nets import small_vgg
from ics.claims.studies.shape import (
    inner,
    measured_steps,
    plain_nets,
    probe_of,
    shape_study,
    sites,
    u_and_preactivation,
    unit_shapes,
)
from ics.errors import UsageError
from ics.experiments import RunConfig, fit, prepare, recipe
from ics.experiments.nets.models import mlp
from ics.experiments.training.machine import cpu_threads

SMALL = {"model": "mlp", "data": "digits", "hidden": [6, 5, 4], "batch_size": 32, "device": "cpu", "num_threads": 1}
SIZES = {"num_measurements": 3, "num_probe": 100, "num_values": 1000, "num_units": 100}


def shapes_of(**changes: object) -> pd.DataFrame:
    return unit_shapes(seed=1, **SIZES, **SMALL | {"steps": 8, "learning_rate": 0.1} | changes)


def of(rows: pd.DataFrame, **chosen: object) -> float:
    for name, wanted in chosen.items():
        rows = rows[rows[name] == wanted]
    (number,) = rows["value"]
    return float(number)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_it_trains_and_looks_as_by_hand(norm: str, tmp_path: Path) -> None:
    rows = shapes_of(norm=norm)
    config = RunConfig(net="x", **SMALL | {"steps": 8, "learning_rate": 0.1}, norm=norm, seed=1)
    experiment = prepare(config)
    probe = probe_of(experiment.data, 100)
    seen = []
    with cpu_threads(1):  # as the configuration says: with two, sums round differently
        for step in (0, 8):
            if step:
                with ics.Recorder(
                    experiment.model, experiment.loss_fn, to=tmp_path / "run", instruments={}
                ) as recorder:
                    fit(experiment, recorder)
            with torch.no_grad():
                hidden = probe.flatten(1)
                for module in list(experiment.model.train())[1 : 4 if norm == "none" else 5]:  # up to linear2
                    hidden = module(hidden)
                seen.append(hidden.double().numpy().T)
    place = {"layer": "linear2", "site": "preactivation"}
    for step, values in zip((0, 8), seen, strict=True):
        for name, numbers in describe(values).items():
            assert of(rows, **place, measure=name, step=step, reference_step=step) == pytest.approx(np.median(numbers))
    for name, numbers in change(Shapes.of(seen[0]), Shapes.of(seen[1])).items():
        assert of(rows, **place, measure=name, step=8, reference_step=0) == pytest.approx(np.median(numbers))


def test_nothing_changes_where_the_net_does_not() -> None:
    rows = shapes_of(norm="batch", learning_rate=0.0)
    moved = rows[rows["step"] > rows["reference_step"]]
    assert len(moved) == 3 * 3 * (3 * 3 + 2)  # pairs, measures; 3 sites of 3 hidden layers and 2 of the output
    assert (moved["value"] == 0).all()


def test_to_look_more_often_changes_nothing() -> None:
    # Noisy BatchNorm draws random numbers in every pass, and every pass moves running averages.
    often, seldom = (shapes_of(norm="noisy-batch").query("step == 8") for _ in range(2))
    assert often.equals(seldom)
    end = {"step": 8, "reference_step": 8, "measure": "ks", "layer": "linear2", "site": "input"}
    twice = unit_shapes(
        seed=1, **SIZES | {"num_measurements": 2}, **SMALL, steps=8, learning_rate=0.1, norm="noisy-batch"
    )
    assert of(often, **end) == of(twice, **end)


def seen_by_hooks(model: nn.Module, inputs: torch.Tensor) -> dict[tuple[str, str], torch.Tensor]:
    """What layers see and make, and what a BatchNorm that runs right after one makes of it."""
    seen: dict[tuple[str, str], torch.Tensor] = {}
    order = [""]

    def keep(module: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor, name: str) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            seen[name, "input"], seen[name, "preactivation"] = given[0].clone(), made.clone()
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and order[-1]:
            seen[order[-1], "scaled"] = made.clone()
        order.append(name if isinstance(module, nn.Linear | nn.Conv2d) else "")

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *args, name=name: keep(*args, name=name))
    model(inputs)
    return seen


@pytest.mark.parametrize("norm", ["none", "batch", "batch-after-activation"])
def test_sites_are_what_hooks_see(norm: str) -> None:
    torch.manual_seed(0)
    for model, inputs in (
        (mlp(input_shape=(6,), num_outputs=3, norm=norm, hidden=(4, 4)), torch.randn(8, 6)),
        (small_vgg(input_shape=(3, 16, 16), num_outputs=3, norm=norm), torch.randn(4, 3, 16, 16)),
    ):
        found = {(place.layer, place.site): tensor.clone() for place, tensor in sites(model, inputs)}
        expected = seen_by_hooks(model, inputs)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_places_tell_order_and_fan_in() -> None:
    model = small_vgg(input_shape=(3, 16, 16), num_outputs=3)
    places = [place for place, _ in sites(model, torch.randn(2, 3, 16, 16)) if place.site == "input"]
    assert [place.layer_index for place in places] == list(range(7))
    assert [place.fan_in for place in places][:3] == [27, 144, 144]


def test_a_net_that_is_no_sequence_is_refused() -> None:
    with pytest.raises(UsageError, match=r"nn\.Sequential, got Linear"):
        list(sites(nn.Linear(2, 2), torch.ones(1, 2)))
    with pytest.raises(UsageError, match="num_measurements=1"):
        measured_steps(10, 1)


def test_few_values_of_few_units_are_enough() -> None:
    config = {**SMALL, "steps": 2, "learning_rate": 0.1}
    few = unit_shapes(seed=0, num_measurements=2, num_probe=100, num_values=40, num_units=1, **config)
    zeros = few[(few["measure"] == "zero_fraction") & (few["site"] == "input") & (few["layer"] == "linear2")]
    assert (zeros["value"] * 40).round(9).mod(1).eq(0).all()  # whole fortieths
    assert set(few["num_units"]) == {1}


def test_inner_layers() -> None:
    rows = pd.DataFrame({"layer_index": [0, 1, 2, 3]})
    assert inner(rows)["layer_index"].tolist() == [1, 2]
    assert inner(rows, first=True)["layer_index"].tolist() == [0, 1, 2]
    from ics.claims import Evidence

    study = shapes_of(steps=2).assign(seed=1)
    chosen = u_and_preactivation(Evidence.of_frames(studies={"x": study}), "x")
    assert set(chosen["layer"]) == {"linear2", "linear3"}
    assert set(chosen["net"]) == {"u", "Wu+b"}


def test_where_images_lie_makes_no_other_study(tmp_path: Path) -> None:
    here, there = (replace(BUDGETS["cpu"], images=tmp_path / name / "cifar10.tar.xz") for name in ("a", "b"))
    one, other = (shape_study("images", plain_nets(budget)["images"], budget) for budget in (here, there))
    assert one == other
    assert one.folder_name == other.folder_name
    assert str(tmp_path) not in str(one.identity)
    assert one.local["data_at"] == f"images:{tmp_path / 'a' / 'cifar10.tar.xz'}"


def test_the_study_of_a_budget_can_be_run(tmp_path: Path) -> None:
    config = base(BUDGETS["quick"], norm="batch").replace(steps=4, hidden=(4, 4))
    study = shape_study("small", config, BUDGETS["quick"])
    assert find_function(study.function) is unit_shapes
    assert "instruments" not in study.settings
    elsewhere = replace(study, settings={**study.settings, "data": "images:nowhere"}, local={"data_at": "digits"})
    run_study(elsewhere, tmp_path / "study")
    assert recipe("digits-mlp").model == study.settings["model"]
    rows = pd.read_parquet(tmp_path / "study" / "table.parquet")
    assert set(rows["step"]) == {0, 1, 2, 3, 4}
