"""Presets: what each records, that each costs more than the one before it, and what they do without a loss."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

import ics
from ics.errors import SelectionError
from ics.recording.instruments import INSTRUMENTS
from ics.recording.presets import PRESETS
from tests.recording.nets import OPTIMIZERS, loss_fn, make_batches, make_net, one_step
from tests.recording.test_nothing_changes import identical


def record(to, preset, *, steps=1, loss=loss_fn, **settings):
    model = make_net("normalised_mlp")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    settings = {"instruments": preset, "strict": True} | settings
    torch.manual_seed(2)
    with ics.Recorder(model, loss, to=to, optimizer=optimizer, **settings) as recorder:
        for batch in make_batches(steps):
            with recorder.step(batch) as step:
                step.log(loss=one_step(model, optimizer, batch))
    return ics.open_run(to), model


def filled(frame) -> set[str]:
    return {name for name in frame.columns if frame[name].notna().any()}


def test_light_records_pooled_moments_of_every_site_and_nothing_else(tmp_path) -> None:
    run, _ = record(tmp_path / "run", "light", steps=11)
    assert set(run.tables) == {"steps", "activations"}
    frame = run.table("activations")
    assert set(frame["step"]) == {0, 10}
    assert set(frame["site"]) == {"input", "preactivation", "normalized", "scaled", "activation"}
    assert {"mean", "m2", "m3", "m4", "minimum", "zero_fraction"} <= filled(frame)
    assert not [name for name in filled(frame) if name.startswith(("channel_", "histogram"))]


def test_standard_adds_histograms_parameters_normalization_and_the_landscape(tmp_path) -> None:
    run, _ = record(tmp_path / "run", "standard")
    assert set(run.tables) == {"steps", *PRESETS["standard"].schedules}
    names = filled(run.table("activations"))
    assert "histogram" in names
    assert not [name for name in names if name.startswith("channel_")]
    assert (run.table("gradients")["kind"] == "parameter").any()


def test_full_records_channels_the_gradients_of_sites_and_every_instrument(tmp_path) -> None:
    run, _ = record(tmp_path / "run", "full")
    assert set(run.tables) == {"steps", *INSTRUMENTS}
    assert {"channel_mean", "histogram"} <= filled(run.table("activations"))
    assert set(run.table("gradients")["kind"]) == {"parameter", "site"}


def test_each_preset_records_at_least_what_the_one_before_it_does_and_as_often() -> None:
    presets = list(PRESETS.values())
    for smaller, larger in itertools.pairwise(presets):
        for name, when in smaller.schedules.items():
            assert larger.schedules[name].n <= when.n


def test_a_run_says_which_preset_it_was_recorded_with(tmp_path) -> None:
    run, _ = record(tmp_path / "run", "light")
    assert run.info["preset"] == "light"
    assert run.info["instruments"] == {"activations": "every(10)"}
    named, _ = record(tmp_path / "named", {"activations": 1})
    assert named.info["preset"] is None


def test_options_of_the_users_own_come_before_those_of_the_preset(tmp_path) -> None:
    run, _ = record(tmp_path / "run", "light", options={"activations": {"histogram": True}})
    names = filled(run.table("activations"))
    assert "histogram" in names
    assert "channel_mean" not in names


@pytest.mark.parametrize("preset", PRESETS)
def test_without_a_loss_the_landscape_is_left_out_and_the_run_says_so(preset, tmp_path) -> None:
    run, _ = record(tmp_path / "run", preset, loss=None)
    evaluating = {name for name in PRESETS[preset].schedules if "loss" in INSTRUMENTS[name]().needs}
    assert set(run.tables) == {"steps", *PRESETS[preset].schedules} - evaluating
    notes = " ".join(json.loads((tmp_path / "run" / "run.json").read_text()).get("notes", []))
    assert all(name in notes for name in evaluating)
    assert bool(notes) == bool(evaluating)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_changes_nothing_of_the_training(preset, tmp_path) -> None:
    measured = record(tmp_path / preset, preset, steps=4)[1]
    model = make_net("normalised_mlp")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    torch.manual_seed(2)
    for batch in make_batches(4):
        one_step(model, optimizer, batch)
    assert identical(model.state_dict(), measured.state_dict())


def test_an_unknown_preset_is_told_with_those_that_there_are(tmp_path) -> None:
    with pytest.raises(SelectionError, match="no preset is named 'lite'; did you mean 'light'"):
        ics.Recorder(make_net("reused"), to=tmp_path / "run", instruments="lite")
    assert not (tmp_path / "run").exists()
