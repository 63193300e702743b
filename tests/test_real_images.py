"""The whole way on real images: train with every instrument on, read the run, check it against the slow reference."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ics
from ics.experiments import prepare, recipe
from tests.reference.gradient_shift_kpass import as_vector, loss_and_gradients, shift_numbers, shifted_gradients

CIFAR = Path(__file__).parents[2] / "shared" / "data" / "cifar10-jpeg.tar.xz"
pytestmark = pytest.mark.skipif(not CIFAR.exists(), reason=f"needs the CIFAR-10 images as {CIFAR.name} in shared/data")

INSTRUMENTS = ("activations", "gradients", "normalization", "gradient_shift", "gradient_line")


@pytest.fixture(scope="module", params=["none", "batch"])
def trained(request, tmp_path_factory):
    """Two optimizer steps of VGG-11 on a slice of the images, the second measured; what training saw is kept beside."""
    config = recipe(
        "vgg11-cifar", data=f"images:{CIFAR}", norm=request.param, steps=2, batch_size=4, limit=2, evaluate_every=0
    )
    experiment = prepare(config)
    model, optimizer = experiment.model, experiment.optimizer
    path = tmp_path_factory.mktemp("run") / request.param
    recorder = ics.Recorder(
        model,
        experiment.loss_fn,
        to=path,
        optimizer=optimizer,
        instruments=dict.fromkeys(INSTRUMENTS, ics.at([1])),
        options={"gradient_line": {"etas": [0.05, 0.2]}},
        config=config.as_dict(),
        seed=config.seed,
        strict=True,
    )
    seen = []
    with recorder:
        for batch in experiment.batches():
            before = {name: value.detach().clone() for name, value in model.named_parameters()}
            buffers = {name: value.clone() for name, value in model.named_buffers()}
            random_state = torch.get_rng_state()
            with recorder.step(batch) as step:
                optimizer.zero_grad()
                loss = experiment.loss_fn(model, batch)
                loss.backward()
                optimizer.step()
                step.log(loss=loss)
            after = {name: value.detach().clone() for name, value in model.named_parameters()}
            seen.append((batch, before, after, {"buffers": buffers, "random_state": random_state}))
    return SimpleNamespace(run=ics.open_run(path), experiment=experiment, seen=seen, norm=request.param)


def test_shifted_gradients_equal_one_full_pass_per_layer(trained):
    batch, before, after, state = trained.seen[1]
    model, loss_fn = trained.experiment.model, trained.experiment.loss_fn
    layers = [SimpleNamespace(**row) for row in trained.run.layers.to_dict("records")]
    assert len(layers) == 9  # eight convolutions and a linear layer; batch norm belongs to its convolution
    _, here = loss_and_gradients(model, loss_fn, batch, before, list(before), **state)
    shifted = shifted_gradients(model, loss_fn, batch, before, after, layers, **state)
    frame = trained.run.table("gradient_shift", where={"step": 1}).set_index(["layer", "parameters"])
    for layer in layers:
        for parameters, names in (("weight", layer.weight), ("all", layer.parameters)):
            names = list(names)
            expected = shift_numbers(as_vector(here, names, before), as_vector(shifted[layer.name], names, before))
            for column, value in expected.items():
                # the same float32 gradients on both sides: only the sums over them differ
                np.testing.assert_allclose(frame.loc[(layer.name, parameters), column], value, rtol=1e-6, atol=1e-12)
    assert (frame.loc[layers[0].name, "shift_l2"] == 0).all()
    assert (frame.loc[layers[-1].name, "shift_l2"] > 0).all()


def test_the_landscape_profile_equals_plain_evaluations(trained):
    batch, before, _, state = trained.seen[1]
    model, loss_fn = trained.experiment.model, trained.experiment.loss_fn
    loss, g = loss_and_gradients(model, loss_fn, batch, before, list(before), **state)
    line = trained.run.table("gradient_line", where={"step": 1, "direction": "gradient"}).set_index("eta")
    assert line.loc[0.0, "loss"] == pytest.approx(loss.item(), rel=1e-12)
    for eta in (0.05, 0.2):
        there = {name: before[name] - eta * g[name] for name in before}
        moved_loss, moved = loss_and_gradients(model, loss_fn, batch, there, list(before), **state)
        change = as_vector(moved, list(before), before) - as_vector(g, list(before), before)
        size = np.linalg.norm(as_vector(g, list(before), before))
        assert line.loc[eta, "loss"] == pytest.approx(moved_loss.item(), rel=1e-5)
        assert line.loc[eta, "gradient_change_l2"] == pytest.approx(np.linalg.norm(change), rel=1e-3)
        assert line.loc[eta, "distance"] == pytest.approx(eta * size, rel=1e-5)


def test_the_run_is_whole_and_reported(trained, tmp_path):
    run = trained.run
    expected = set(INSTRUMENTS) - ({"normalization"} if trained.norm == "none" else set())
    assert set(run.tables) == {"steps", *expected}
    assert not run.info.get("notes")
    assert "equal" in run.info["objective"]
    page = ics.plots.write_report([run], tmp_path / "report.html")
    assert page.stat().st_size > 50_000
    assert "http" not in page.read_text().replace("http://www.w3.org", "")
