from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ics
from ics.errors import LossError, MeasurementWarning, SelectionError, UsageError
from tests.recording.nets import NETS, OPTIMIZERS, loss_fn, loss_that_fails, make_batches, make_net, one_step

EVERYTHING = (
    "activations",
    "gradients",
    "normalization",
    "gradient_shift",
    "attribution",
    "gradient_line",
    "curvature",
    "drift",
)


def record(to, name="normalised_mlp", *, steps=3, size=7, dtype=torch.float32, optimizer="sgd", **options):
    """Train a few steps with a strict recorder; return the run, the model and what was trained on."""
    model = make_net(name, dtype=dtype)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    batches = make_batches(steps, size=size, dtype=dtype)
    options = {"instruments": dict.fromkeys(EVERYTHING, 1), "strict": True} | options
    torch.manual_seed(5)
    with ics.Recorder(model, loss_fn, to=to, optimizer=optimizer, **options) as recorder:
        for batch in batches:
            with recorder.step(batch) as step:
                step.log(loss=one_step(model, optimizer, batch))
    return ics.open_run(to), model, batches


def test_a_run_holds_every_table_of_its_instruments(tmp_path):
    run, _, _ = record(tmp_path / "run")
    assert set(run.tables) == {"steps", *EVERYTHING}
    assert run.state == "completed"
    assert list(run.layers["name"]) == ["1", "5", "8"]
    assert list(run.layers["index"]) == [0, 1, 2]
    assert run.info["instruments"]["gradient_shift"] == "every(1)"
    assert list(run.table("steps")["step"]) == [0, 1, 2]


def test_a_layer_has_the_same_number_in_every_table(tmp_path):
    run, _, _ = record(tmp_path / "run", "residual", steps=1)
    numbers = dict(zip(run.layers["name"], run.layers["index"], strict=True))
    for table in ("activations", "gradients", "gradient_shift"):
        for layer, number in run.table(table)[["layer", "layer_index"]].itertuples(index=False):
            assert numbers.get(layer, number) == number, (table, layer)


@pytest.mark.parametrize("name", NETS)
def test_the_same_rows_at_batch_sizes_1_2_and_7(name, tmp_path):
    sizes = (2, 7) if name == "normalised_mlp" else (1, 2, 7)  # batch norm of a vector needs two samples
    rows = {}
    for size in sizes:
        run, _, _ = record(tmp_path / str(size), name, size=size)
        rows[size] = {
            table: [tuple(map(str, row)) for row in run.table(table)[keys].itertuples(index=False)]
            for table, keys in {
                "activations": ["step", "layer", "call", "site"],
                "gradients": ["step", "layer", "call", "of"],
                "gradient_shift": ["step", "layer", "parameters"],
            }.items()
        }
    assert all(rows[size] == rows[7] for size in sizes)


def test_the_first_layer_never_shifts_and_its_cosine_is_exactly_1(tmp_path):
    run, _, _ = record(tmp_path / "run", "residual")
    first = run.table("gradient_shift", where={"layer_index": 0})
    assert (first["shift_l2"] == 0).all()
    assert (first["shift_cosine"] == 1).all()
    later = run.table("gradient_shift", where=[("layer_index", ">", 0), ("parameters", "=", "weight")])
    assert (later["shift_l2"] > 0).all()


def test_the_floor_is_the_gradient_of_the_batch_before_at_the_same_weights(tmp_path):
    model = make_net("reused", dtype=torch.float64).eval()  # no dropout: the oracle below is one line
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = make_batches(2, dtype=torch.float64)
    with ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments={"gradient_shift": 1}) as recorder:
        for number, batch in enumerate(batches):
            if number == 1:
                name = "core.weight"
                wanted, other = (
                    torch.autograd.grad(loss_fn(model, chosen), model.get_parameter(name))[0].numpy()
                    for chosen in (batch, batches[0])
                )
            with recorder.step(batch):
                one_step(model, optimizer, batch)
    frame = ics.open_run(tmp_path).table("gradient_shift", where={"layer": "core", "parameters": "weight"})
    assert frame["floor_l2"].isna().tolist() == [True, False]  # nothing came before the first batch
    row = frame.iloc[1]
    assert row["floor_l2"] == pytest.approx(np.linalg.norm(wanted - other), rel=1e-12)
    cosine = (wanted * other).sum() / np.linalg.norm(wanted) / np.linalg.norm(other)
    assert row["floor_cosine"] == pytest.approx(cosine, rel=1e-12)


def test_norms_of_the_step_are_those_of_the_clipped_accumulated_gradient(tmp_path):
    model = make_net("reused", dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    before = [parameter.detach().clone().numpy() for parameter in model.parameters()]
    micro = make_batches(3, dtype=torch.float64)
    with ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments={"gradients": 1}) as recorder:
        with recorder.step(micro):
            for batch in micro:
                loss_fn(model, batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
            used = {name: parameter.grad.clone().numpy() for name, parameter in model.named_parameters()}
            optimizer.zero_grad()
    run = ics.open_run(tmp_path)
    step = run.table("steps").iloc[0]
    assert step["gradient_norm"] == pytest.approx(np.sqrt(sum((value**2).sum() for value in used.values())), rel=1e-12)
    assert step["gradient_norm"] == pytest.approx(0.25, rel=1e-5)  # torch adds 1e-6 to the norm it divides by
    after = [parameter.detach().numpy() for parameter in model.parameters()]
    moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True)))
    assert step["update_norm"] == pytest.approx(moved, rel=1e-12)
    assert step["regulariser"] == pytest.approx(0.05 * sum((value**2).sum() for value in before), rel=1e-12)
    rows = run.table("gradients", where={"kind": "parameter"}).set_index("of")
    for name, gradient in used.items():
        assert rows.loc[name, "gradient_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
        assert rows.loc[name, "mean"] == pytest.approx(gradient.mean(), rel=1e-9, abs=1e-15)


def test_gradient_accumulation_measures_the_accumulated_loss(tmp_path):
    model = make_net("residual", dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    micro = make_batches(3, dtype=torch.float64)
    instruments = {"gradient_line": 1, "gradients": 1}
    with ics.Recorder(
        model, loss_fn, to=tmp_path, optimizer=optimizer, instruments=instruments, strict=True
    ) as recorder:
        with recorder.step(micro):
            optimizer.zero_grad()
            for batch in micro:
                loss_fn(model, batch).backward()
            optimizer.step()
    run = ics.open_run(tmp_path)
    assert run.table("gradient_line")["gradient_norm"].iloc[0] == pytest.approx(
        run.table("steps")["gradient_norm"].iloc[0], rel=1e-12
    )
    assert not run.info.get("notes")


def test_layers_moved_alone_are_recorded_beside_the_whole_net_and_equal_the_one_shot(tmp_path):
    model, (batch,) = make_net("residual", dtype=torch.float64).eval(), make_batches(1, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    etas = [0.05, 0.1]
    wanted = ics.gradient_line(model, loss_fn, batch, etas, learning_rate=0.1, layers=["conv*", "head"])
    options = {"gradient_line": {"layers": ["conv*", "head"], "etas": etas}}
    make = {"optimizer": optimizer, "instruments": {"gradient_line": 1}, "options": options, "strict": True}
    with ics.Recorder(model, loss_fn, to=tmp_path, **make) as recorder:
        with recorder.step(batch):
            optimizer.zero_grad()
            loss_fn(model, batch).backward()
            optimizer.step()
    found = ics.open_run(tmp_path).table("gradient_line")
    assert set(found["layer"]) == {"(all)", "conv", "head"}
    keys = ["layer", "direction", "draw", "eta"]
    found, wanted = (frame.set_index(keys).sort_index() for frame in (found, wanted))
    for name in ("loss", "gradient_change_l2", "gradient_norm"):
        assert found[name].tolist() == pytest.approx(wanted[name].tolist(), rel=1e-12)


def test_scaled_losses_leave_unscaled_gradients_in_the_record(tmp_path):
    frames = {}
    for name, scale in {"plain": 1.0, "scaled": 1024.0}.items():
        model = make_net("reused").eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        batch = make_batches(1)[0]
        path = tmp_path / name
        with ics.Recorder(model, loss_fn, to=path, optimizer=optimizer, instruments={"gradients": 1}) as recorder:
            with recorder.step(batch):
                scaler.scale(loss_fn(model, batch)).backward()
                scaler.step(optimizer)
                scaler.update()
        frames[name] = ics.open_run(path).table("gradients", where={"kind": "parameter"})
    np.testing.assert_allclose(frames["plain"]["gradient_norm"], frames["scaled"]["gradient_norm"], rtol=1e-5)


def test_an_exception_in_the_block_records_nothing_of_that_step_and_loses_nothing(tmp_path):
    model = make_net("residual")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    batches = make_batches(4)
    recorder = ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments={"activations": 1})
    for number, batch in enumerate(batches):
        try:
            with recorder.step(batch) as step:
                step.log(loss=one_step(model, optimizer, batch), number=number)
                if number == 2:
                    raise KeyError("the user's own mistake")
        except KeyError:
            on_disk = ics.open_run(tmp_path).table("steps")  # without close
            assert list(on_disk["number"]) == [0, 1]
    recorder.close()
    run = ics.open_run(tmp_path)
    assert list(run.table("steps")["number"]) == [0, 1, 3]
    assert list(run.table("steps")["step"]) == [0, 1, 2]
    assert sorted(run.table("activations")["step"].unique()) == [0, 1, 2]


def test_a_loss_that_is_nan_is_recorded_and_counted_and_training_goes_on(tmp_path):
    model = make_net("reused")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    batches = make_batches(3)
    batches[1][0][0] = float("nan")
    instruments = dict.fromkeys(EVERYTHING, 1)
    with pytest.warns(MeasurementWarning, match="not finite from step 1"):
        with ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments=instruments) as recorder:
            for batch in batches:
                with recorder.step(batch) as step:
                    step.log(loss=one_step(model, optimizer, batch))
    run = ics.open_run(tmp_path)
    losses = run.table("steps")["loss"]
    assert np.isfinite(losses[0])
    assert np.isnan(losses[1])
    assert run.info["num_nonfinite_losses"] == 2
    counted = run.table("activations", where={"step": 1, "layer": "embed", "site": "input"})
    assert counted["nonfinite_count"].tolist() == [16]


def test_a_measurement_that_fails_is_noted_once_and_switched_off(tmp_path):
    model = make_net("residual")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    instruments = {"gradient_line": 1, "activations": 1}
    with pytest.warns(MeasurementWarning, match="gradient_line switched off at step 0.*out of luck"):
        recorder = ics.Recorder(
            model, loss_that_fails(after=2), to=tmp_path, optimizer=optimizer, instruments=instruments
        )
        for batch in make_batches(3):
            with recorder.step(batch) as step:
                step.log(loss=one_step(model, optimizer, batch))
        recorder.close()
    run = ics.open_run(tmp_path)
    assert run.table("activations")["step"].nunique() == 3
    assert any("out of luck" in note for note in run.info["notes"])


def test_strict_raises_instead(tmp_path):
    model = make_net("residual")
    optimizer = OPTIMIZERS["sgd"](model.parameters())

    def broken(model, batch):
        raise RuntimeError("out of luck")

    instruments = {"gradient_line": 1}
    recorder = ics.Recorder(model, broken, to=tmp_path, optimizer=optimizer, instruments=instruments, strict=True)
    batch = make_batches(1)[0]
    with pytest.raises(RuntimeError, match="out of luck"), recorder.step(batch):
        one_step(model, optimizer, batch)
    recorder.close()


def test_another_loss_than_the_trained_one_is_noticed(tmp_path):
    model = make_net("reused").eval()
    optimizer = OPTIMIZERS["sgd"](model.parameters())

    def other_loss(model, batch):
        return model(batch[0]).square().mean()

    with pytest.warns(MeasurementWarning, match="differs"):
        with ics.Recorder(
            model, other_loss, to=tmp_path, optimizer=optimizer, instruments={"gradient_line": 1}
        ) as recorder:
            batch = make_batches(1)[0]
            with recorder.step(batch):
                one_step(model, optimizer, batch)


def test_compiled_models_are_measured_and_stay_compiled_on_idle_steps(tmp_path):
    model = make_net("normalised_mlp")
    compiled = torch.compile(model, backend="eager")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    batches = make_batches(3)
    compiled(batches[0][0])  # compiled before the recorder exists: hooks added now would be ignored
    instruments = {"activations": ics.at([1]), "gradient_shift": ics.at([1])}
    with ics.Recorder(
        compiled, loss_fn, to=tmp_path, optimizer=optimizer, instruments=instruments, strict=True
    ) as recorder:
        for batch in batches:
            with recorder.step(batch) as step:
                step.log(loss=one_step(compiled, optimizer, batch))
    run = ics.open_run(tmp_path)
    assert run.table("activations")["layer"].unique().tolist() == ["1", "5", "8"]
    assert run.table("gradient_shift")["layer"].unique().tolist() == ["1", "5", "8"]


def test_activations_alone_need_no_loss_and_no_batch(tmp_path):
    model = make_net("reused")
    with ics.Recorder(model, to=tmp_path, instruments={"activations": ics.every(1)}) as recorder:
        with recorder.step():
            model(make_batches(1)[0][0])
    assert ics.open_run(tmp_path).table("activations")["site"].isin(["input", "preactivation", "activation"]).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"instruments": {"gradient_shfit": 1}}, SelectionError, "gradient_shift"),
        ({"instruments": {"gradient_shift": 0}}, UsageError, ">= 1"),
        ({"options": {"gradient_line": {"eta": [1.0]}}}, SelectionError, "etas"),
        ({"loss_fn": None, "instruments": {"gradient_line": 1}}, UsageError, "expects a loss_fn"),
        ({"model": nn.ReLU()}, UsageError, "model with parameters"),
    ],
)
def test_mistakes_are_told_when_the_recorder_is_made(options, error, message, tmp_path):
    arguments = {"model": make_net("reused"), "loss_fn": loss_fn, "to": tmp_path / "run"} | options
    with pytest.raises(error, match=message):
        ics.Recorder(**arguments)
    assert not (tmp_path / "run").exists()


def test_an_unknown_layer_is_an_error_when_the_recorder_is_made(tmp_path):
    with pytest.raises(SelectionError, match="embed"):
        record(tmp_path, "reused", layers="embedd*", strict=False)


def test_a_loss_that_is_a_vector_is_an_error(tmp_path):
    model = make_net("reused")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    batch = make_batches(1)[0]

    def per_sample(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    recorder = ics.Recorder(model, per_sample, to=tmp_path, optimizer=optimizer, instruments={"gradient_line": 1})
    with pytest.raises(LossError, match="shape"), recorder.step(batch):
        one_step(model, optimizer, batch)
    recorder.close(state="failed")


def test_a_batch_is_asked_for_only_when_it_is_needed(tmp_path):
    model = make_net("reused")
    recorder = ics.Recorder(model, loss_fn, to=tmp_path, instruments={"gradient_line": 2})
    with pytest.raises(UsageError, match=r"recorder.step\(batch\)"):
        recorder.step()
    recorder.close()


def test_logging_takes_single_numbers_under_names_of_the_users_own(tmp_path):
    recorder = ics.Recorder(make_net("reused"), to=tmp_path, instruments={"activations": ics.at([9])})
    with recorder.step() as step:
        with pytest.raises(UsageError, match="one number"):
            step.log(loss=torch.zeros(3))
        with pytest.raises(UsageError, match="names of your own"):
            step.log(duration=1.0)
        step.log(loss=torch.ones(1), accuracy=0.5)
    recorder.close()
    row = ics.open_run(tmp_path).table("steps").iloc[0]
    assert (row["loss"], row["accuracy"]) == (1.0, 0.5)


def test_a_process_killed_in_mid_run_leaves_every_written_row_readable(tmp_path):
    program = f"""
        import os, torch, ics
        from tests.recording.nets import *
        model = make_net("reused")
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        instruments = {{"activations": 1, "gradient_line": 2}}
        recorder = ics.Recorder(model, loss_fn, to={str(tmp_path / "run")!r}, optimizer=optimizer,
                                instruments=instruments, flush_every=2)
        for number, batch in enumerate(make_batches(6)):
            with recorder.step(batch) as step:
                step.log(loss=one_step(model, optimizer, batch))
            if number == 3:
                recorder._buffer.drain()  # until all is on disk
            if number == 4:
                os._exit(9)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=120)
    assert done.returncode == 9
    run = ics.open_run(tmp_path / "run")
    assert run.state != "completed"
    assert list(run.table("steps")["step"]) == [0, 1, 2, 3]
    assert sorted(run.table("activations")["step"].unique()) == [0, 1, 2, 3]
    assert sorted(run.table("gradient_line")["step"].unique()) == [0, 2]


def test_a_recorder_that_was_never_closed_is_written_when_the_process_ends(tmp_path):
    program = f"""
        import ics
        from tests.recording.nets import *
        model = make_net("reused")
        recorder = ics.Recorder(model, to={str(tmp_path / "run")!r}, instruments={{"activations": 1}})
        with recorder.step():
            model(make_batches(1)[0][0])
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)
    run = ics.open_run(tmp_path / "run")
    assert len(run.table("activations")) > 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "interrupted"


@pytest.mark.parametrize(
    ("error", "state"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted"), (SystemExit, "interrupted")]
)
def test_an_interrupt_is_no_failure(error: type[BaseException], state: str, tmp_path):
    model = make_net("reused")
    with pytest.raises(error), ics.Recorder(model, to=tmp_path / "run", instruments={"activations": 1}) as recorder:
        with recorder.step():
            model(make_batches(1)[0][0])
        raise error
    run = ics.open_run(tmp_path / "run")
    assert run.state == state
    assert len(run.table("activations")) > 0
