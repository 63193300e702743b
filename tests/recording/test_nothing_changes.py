"""Law 1: measuring changes nothing, bit for bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import ics
from tests.recording.nets import NETS, OPTIMIZERS, loss_fn, make_batches, make_net, one_step

EVERYTHING = tuple(ics.INSTRUMENTS)


def train(name, optimizer_name, batches, to=None, instruments=EVERYTHING, options=None):
    """Train with or without a recorder; return all that could have been disturbed."""
    model = make_net(name)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    torch.manual_seed(2)
    random.seed(3)
    np.random.seed(4)
    losses = []
    if to is None:
        losses = [one_step(model, optimizer, batch).item() for batch in batches]
    else:
        schedule = {instrument: ics.every(1) for instrument in instruments}
        choice = {"instruments": schedule, "options": options}
        with ics.Recorder(model, loss_fn, to=to, optimizer=optimizer, strict=True, **choice) as recorder:
            for batch in batches:
                with recorder.step(batch) as step:
                    loss = one_step(model, optimizer, batch)
                    step.log(loss=loss)
                losses.append(loss.item())
    return {
        "losses": losses,
        "parameters": dict(model.named_parameters()),
        "buffers": dict(model.named_buffers()),
        "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
    }


def identical(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETS)
def test_training_with_every_instrument_is_bit_identical(name, optimizer, tmp_path):
    batches = make_batches(6)
    plain = train(name, optimizer, batches)
    measured = train(name, optimizer, batches, to=tmp_path / "run")
    for part in plain:
        assert identical(plain[part], measured[part]), part


@pytest.mark.parametrize("instrument", EVERYTHING)
def test_each_instrument_alone_is_bit_identical(instrument, tmp_path):
    batches = make_batches(4)
    plain = train("normalised_mlp", "sgd", batches)
    measured = train("normalised_mlp", "sgd", batches, to=tmp_path / "run", instruments=(instrument,))
    assert identical(plain, measured)
    assert instrument in ics.open_run(tmp_path / "run").tables


def test_what_is_measured_together_at_the_end_of_a_pass_is_bit_identical(tmp_path):
    batches = make_batches(6)
    plain = train("normalised_mlp", "sgd", batches)
    pooled = {name: {"per_channel": False} for name in ("activations", "gradients")}
    measured = train("normalised_mlp", "sgd", batches, to=tmp_path / "run", instruments=tuple(pooled), options=pooled)
    assert identical(plain, measured)
    rows = ics.open_run(tmp_path / "run").table("gradients")
    assert set(rows["step"]) == set(range(6))
    assert rows["mean"].notna()[rows["kind"] == "site"].any()


def test_the_comparison_would_see_a_single_changed_bit():
    batches = make_batches(2)
    plain = train("reused", "adam", batches)
    other = train("reused", "adam", batches)
    other["parameters"]["head.bias"].data[0] = torch.nextafter(other["parameters"]["head.bias"][0], torch.tensor(9.0))
    assert not identical(plain, other)


def test_nothing_is_attached_on_idle_steps_or_left_behind(tmp_path):
    model = make_net("residual")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    instruments = {instrument: ics.at([1]) for instrument in EVERYTHING}
    attached = []
    with ics.Recorder(model, loss_fn, to=tmp_path / "run", optimizer=optimizer, instruments=instruments) as recorder:
        for batch in make_batches(3):
            with recorder.step(batch):
                attached.append(num_hooks(model, optimizer))
                one_step(model, optimizer, batch)
            assert num_hooks(model, optimizer) == 0
    assert attached[0] == 0
    assert attached[1] > 0
    assert attached[2] == 0


def num_hooks(model, optimizer) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
    overridden = sum("forward" in vars(module) for module in model.modules())
    of_tensors = sum(len(parameter._backward_hooks or ()) for parameter in model.parameters())
    return hooks + overridden + of_tensors + len(optimizer._optimizer_step_pre_hooks)


def test_an_exception_in_the_block_detaches_everything(tmp_path):
    model = make_net("residual")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    recorder = ics.Recorder(model, loss_fn, to=tmp_path / "run", optimizer=optimizer, instruments={"activations": 1})
    with pytest.raises(ZeroDivisionError), recorder.step(make_batches(1)[0]):
        raise ZeroDivisionError
    assert num_hooks(model, optimizer) == 0
    recorder.close()
