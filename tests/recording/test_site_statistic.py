"""A statistic of a user's own: the function's value at every site, and a training that does not notice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import ics
from ics.errors import MeasurementWarning, SelectionError, UsageError
from tests.recording.nets import NETS, OPTIMIZERS, loss_fn, make_batches, make_net, one_step
from tests.recording.test_nothing_changes import identical, num_hooks

# BatchNorm1d refuses a single value per channel.
CASES = [(name, size) for name in NETS for size in (1, 2, 7) if (name, size) != ("normalised_mlp", 1)]


def l2_over_rms(x):
    return x.norm() / x.square().mean().sqrt()


def train(to, statistics, *, name="normalised_mlp", size=7, steps=3, optimizer="sgd", **settings):
    model = make_net(name)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    torch.manual_seed(2)
    settings = {"strict": True, **settings}
    instruments = dict.fromkeys(statistics, 1)
    with ics.Recorder(model, loss_fn, to=to, optimizer=optimizer, instruments=instruments, **settings) as recorder:
        for batch in make_batches(steps, size=size):
            with recorder.step(batch) as step:
                step.log(loss=one_step(model, optimizer, batch))
    assert num_hooks(model, optimizer) == 0
    return ics.open_run(to), model


def plain(name, *, size=7, steps=3):
    model = make_net(name)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    torch.manual_seed(2)
    for batch in make_batches(steps, size=size):
        one_step(model, optimizer, batch)
    return model


@pytest.mark.parametrize(("name", "size"), CASES)
def test_it_agrees_with_the_moments_of_the_same_sites(name, size, tmp_path):
    mean = ics.statistic("average", torch.mean, unit="value")
    run, _ = train(tmp_path / "run", [mean, "activations"], name=name, size=size)
    keys = ["step", "layer", "layer_index", "call", "site"]
    both = run.table("average").merge(run.table("activations"), on=keys, validate="one_to_one", suffixes=("", "_other"))
    assert len(both) == len(run.table("activations")) == len(run.table("average"))
    known = both["average"].notna()
    assert list(known) == list(both["mean"].notna())
    assert np.allclose(both["average"][known], both["mean"][known], rtol=1e-5, atol=1e-6)


def test_its_value_is_that_of_a_plain_hook_before_an_activation_overwrites_the_tensor(tmp_path):
    run, _ = train(tmp_path / "run", [ics.statistic("l2_over_rms", l2_over_rms), ics.statistic("lowest", torch.min)])
    model, optimizer, wanted = make_net("normalised_mlp"), None, {}
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    steps = []

    def keep(module, args, output):
        if isinstance(module, nn.Linear | nn.BatchNorm1d):
            values = output.detach().double().numpy()
            wanted[len(steps), id(module)] = np.sqrt(values.size), values.min()

    names = {id(module): name for name, module in model.named_modules()}
    for module in model.modules():
        module.register_forward_hook(keep)
    torch.manual_seed(2)
    for batch in make_batches(3):
        steps.append(one_step(model, optimizer, batch))
    rows = run.table("lowest").merge(run.table("l2_over_rms"))
    of_layers = rows[rows["site"] == "preactivation"].set_index(["step", "layer"])
    of_norms = rows[rows["site"] == "scaled"].set_index(["step", "layer_index"])
    found = 0
    for (step, module), (ratio, lowest) in wanted.items():
        if (step, names[module]) in of_layers.index:  # layers; of what follows them the layer has the rows
            row = of_layers.loc[step, names[module]]
        else:
            row = of_norms.loc[step, {"2": 0, "6": 1}[names[module]]]
        assert row["l2_over_rms"] == pytest.approx(ratio, rel=1e-5)
        assert row["lowest"] == pytest.approx(lowest, rel=1e-6)
        found += 1
    assert found == 15


def test_a_value_that_is_a_view_is_the_one_before_the_tensor_is_overwritten(tmp_path):
    sixth = ics.statistic("sixth", lambda x: x.flatten()[5])  # batch norm's output is overwritten by an in-place ReLU
    copied = ics.statistic("copied", lambda x: x.flatten()[5].clone())
    run, _ = train(tmp_path / "run", [sixth, copied], steps=4)
    both = run.table("sixth").merge(run.table("copied"))
    assert len(both) == len(run.table("sixth"))
    assert both["sixth"].equals(both["copied"])
    assert (both.loc[both["site"] == "scaled", "sixth"] < 0).any()


def test_per_channel_it_is_given_rows_of_values_and_stores_a_list(tmp_path):
    shapes = []

    def highest(x):
        shapes.append(tuple(x.shape))
        return x.amax(0)

    statistic = ics.statistic("highest", highest, per_channel=True, sites=("preactivation", "normalized"))
    run, _ = train(tmp_path / "run", [statistic, "activations"], name="residual")
    both = run.table("highest").merge(run.table("activations"), on=["step", "layer", "call", "site"])
    assert set(both["site"]) == {"preactivation", "normalized"}
    assert (7 * 16, 4) in shapes
    for row in both.itertuples():
        assert np.allclose(row.highest, row.channel_maximum, rtol=1e-5)


def test_its_table_says_what_it_is_where_the_run_is_read(tmp_path):
    statistic = ics.statistic("largest", torch.amax, unit="value", meaning="largest value of the tensor")
    run, _ = train(tmp_path / "run", [statistic])
    column = run.schema["largest"].column("largest")
    assert (column.unit, column.meaning, column.dtype) == ("value", "largest value of the tensor", "float64")
    assert run.info["instruments"] == {"largest": "every(1)"}
    assert list(run.layers["name"]) == ["1", "5", "8"]


@pytest.mark.parametrize("name", NETS)
def test_training_with_it_is_bit_identical_though_it_draws_random_numbers(name, tmp_path):
    noisy = ics.statistic("noisy", lambda x: (x + torch.randn_like(x)).mean())
    run, model = train(tmp_path / "run", [noisy], name=name)
    assert identical(plain(name).state_dict(), model.state_dict())
    assert len(run.table("noisy"))


def writes(x):
    x.mul_(2.0)
    return x.sum()


def writes_unseen(x):
    x.data.mul_(2.0)  # no version counts it
    return x.sum()


def waits(x):
    return x.sum().item()


MISTAKES = {
    "ValueError: it writes to the tensor of 1 at input": writes,
    "ValueError: it writes to the tensor of 1 at input; ": writes_unseen,
    r"TypeError: expected a tensor of shape \(\), got float, at 1 input": waits,
    r"ValueError: expected a real tensor of shape \(\), got torch.float32 of shape \(16,\), at 1 input": lambda x: (
        x.amax(0)
    ),
    "ValueError: expected a real tensor": lambda x: torch.complex(x.sum(), x.sum()),
    "ZeroDivisionError": lambda x: 1 / 0,
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_wrong_one_is_switched_off_with_one_warning_and_training_does_not_notice(message, tmp_path):
    broken = ics.statistic("broken", MISTAKES[message])
    with pytest.warns(MeasurementWarning, match=f"broken switched off at step 0: {message}") as caught:
        run, model = train(tmp_path / "run", [broken, "activations"], strict=False)
    assert len(caught) == 1
    assert run.tables == ("steps", "activations")
    assert identical(plain("normalised_mlp").state_dict(), model.state_dict())


def test_one_that_only_later_returns_another_shape_keeps_what_it_recorded(tmp_path):
    calls = []

    def late(x):
        calls.append(1)
        return x.mean() if len(calls) <= 20 else x  # 14 sites a step

    with pytest.warns(MeasurementWarning, match="late switched off at step 1"):
        run, _ = train(tmp_path / "run", [ics.statistic("late", late)], strict=False)
    assert set(run.table("late")["step"]) == {0}


def test_under_accumulation_every_forward_pass_has_rows_of_its_own(tmp_path):
    model = make_net("reused")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    statistic = ics.statistic("average", torch.mean, sites="input")
    with ics.Recorder(model, to=tmp_path / "run", optimizer=optimizer, instruments={statistic: 1}) as recorder:
        parts = make_batches(3)
        with recorder.step(parts):
            optimizer.zero_grad()
            for part in parts:
                loss_fn(model, part).backward()
            optimizer.step()
    rows = ics.open_run(tmp_path / "run").table("average")
    first = rows[rows["layer"] == "embed"].set_index("forward")["average"]
    assert [first[number] for number in range(3)] == pytest.approx([part[0].mean().item() for part in parts], rel=1e-5)
    assert list(rows[rows["layer"] == "core"].groupby("forward").size()) == [3, 3, 3]  # three calls a pass


def test_a_checkpointed_segment_is_counted_once(tmp_path):
    class Segment(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU()), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(checkpoint(self.inner, x.flatten(1), use_reentrant=False))

    model = Segment()
    statistic = ics.statistic("average", torch.mean)
    with ics.Recorder(model, to=tmp_path / "run", instruments={statistic: 1}, strict=True) as recorder:
        with recorder.step():
            loss_fn(model, make_batches(1)[0]).backward()
    rows = ics.open_run(tmp_path / "run").table("average")
    assert set(rows["forward"]) == {0}
    assert not rows.duplicated(["layer", "call", "site"]).any()
    assert {"inner.0", "head"} <= set(rows["layer"])


def test_only_the_layers_and_sites_asked_for_have_rows(tmp_path):
    statistic = ics.statistic("average", torch.mean, sites=["preactivation"])
    run, _ = train(tmp_path / "run", [statistic], layers="5")
    assert set(zip(run.table("average")["layer"], run.table("average")["site"], strict=True)) == {
        ("5", "preactivation")
    }


def test_it_needs_no_loss_no_optimizer_and_no_batch(tmp_path):
    model = make_net("reused")
    with ics.Recorder(model, to=tmp_path / "run", instruments=[ics.statistic("average", torch.mean)]) as recorder:
        with recorder.step():
            model(make_batches(1)[0][0])
    assert len(ics.open_run(tmp_path / "run").table("average"))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("average", 3), {}, UsageError, "expects a function, got int"),
        (("an average", torch.mean), {}, UsageError, "got 'an average'"),
        (("activations", torch.mean), {}, UsageError, "that no table or key has, got 'activations'"),
        (("layer", torch.mean), {}, UsageError, "that no table or key has, got 'layer'"),
        (
            ("average", torch.mean),
            {"sites": "inputs"},
            SelectionError,
            "no site is named 'inputs'; did you mean 'input'",
        ),
    ],
)
def test_a_mistake_in_what_is_asked_for_is_one_sentence(arguments, options, error, message):
    with pytest.raises(error, match=message):
        ics.statistic(*arguments, **options)
