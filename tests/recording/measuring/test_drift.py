from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn

import ics
from ics.errors import MeasurementWarning, SelectionError, UsageError
from tests.recording.nets import NETS, loss_fn, make_batches, make_net, one_step

DISTANCES = ["mean_shift", "log_variance_ratio", "gaussian_kl", "wasserstein_1"]
FLOORS = [f"floor_{name}" for name in DISTANCES]


def record(to, model, *, steps=1, rate=0.1, batches=None, options=None, loss=loss_fn, schedule=1):
    """Train with the instrument alone; return its table and the parameters before every step and at the end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    batches = batches or make_batches(steps, dtype=next(model.parameters()).dtype)
    parameters = [weights(model)]
    arguments = {"optimizer": optimizer, "instruments": {"drift": schedule}, "strict": True}
    with ics.Recorder(model, loss, to=to, options={"drift": options or {}}, **arguments) as recorder:
        for batch in batches:
            with recorder.step(batch):
                one_step(model, optimizer, batch)
            parameters.append(weights(model))
    return ics.open_run(to).table("drift"), parameters


def weights(model):
    return {name: value.detach().clone().numpy() for name, value in model.named_parameters()}


def two_layers(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def sites_by_hand(parameters, batch):
    """Every site of `two_layers`, from its formulas."""
    x = batch[0].flatten(1).numpy()
    first = x @ parameters["1.weight"].T + parameters["1.bias"]
    hidden = np.tanh(first)
    second = hidden @ parameters["3.weight"].T + parameters["3.bias"]
    return {
        ("1", "input"): x,
        ("1", "preactivation"): first,
        ("1", "activation"): hidden,
        ("3", "input"): hidden,
        ("3", "preactivation"): second,
    }


def distances_by_hand(now, reference):
    rows = []
    for x, y in zip(now.T, reference.T, strict=True):
        ratio, moved = x.var() / y.var(), x.mean() - y.mean()
        kl = 0.5 * (ratio + moved**2 / y.var() - 1 - np.log(ratio))
        rows.append((abs(moved) / y.std(), abs(np.log(ratio)), kl, wasserstein_distance(x, y) / y.std()))
    return np.mean(rows, axis=0)


def test_distances_and_floors_equal_those_computed_by_hand(tmp_path):
    batches = make_batches(3, dtype=torch.float64)
    frame, parameters = record(tmp_path, two_layers(), batches=batches)
    at = [sites_by_hand(values, batches[0]) for values in parameters]  # the probe batch is the first one measured
    pairs = [(step, "before_update", at[step + 1], at[step]) for step in range(3)]
    pairs += [(step, "step_0", at[step], at[0]) for step in (1, 2)]
    assert len(frame) == len(pairs) * len(at[0])
    for step, reference, now, then in pairs:
        rows = frame[(frame.step == step) & (frame.reference == reference)].set_index(["layer", "site"])
        for key, values in now.items():
            expected = distances_by_hand(values, then[key])
            np.testing.assert_allclose(rows.loc[key, DISTANCES].astype(float), expected, rtol=1e-9, atol=1e-14)
            floor = distances_by_hand(at[step][key][:3], at[step][key][3:])
            np.testing.assert_allclose(rows.loc[key, FLOORS].astype(float), floor, rtol=1e-9)
    assert frame["null_reason"].isna().all()
    assert (frame["layer_index"] == frame["layer"].map({"1": 0, "3": 1})).all()


@pytest.mark.parametrize("name", NETS)
def test_a_learning_rate_of_0_drifts_by_exactly_0_with_dropout_too(name, tmp_path):
    frame, _ = record(tmp_path, make_net(name), rate=0.0, steps=2)
    assert set(frame["reference"]) == {"before_update", "step_0"}  # masks are the same at all steps
    assert (frame[DISTANCES].fillna(0) == 0).all(axis=None)
    defined = frame.dropna(subset=[*DISTANCES, *FLOORS])
    assert len(defined) > len(frame) / 2
    assert (defined[FLOORS] > 0).all(axis=None)


@pytest.mark.parametrize("name", NETS)
def test_inputs_of_the_net_never_drift_and_every_call_and_site_has_its_row(name, tmp_path):
    model = make_net(name)
    frame, _ = record(tmp_path / "drift", model)
    first = frame[(frame["layer_index"] == 0) & (frame["site"] == "input")]
    assert (first[DISTANCES] == 0).all(axis=None)
    assert (frame[frame["site"] == "preactivation"][DISTANCES] > 0).all(axis=None)
    expected = ics.activation_stats(model, make_batches(1)[0])
    keys = ["layer", "layer_index", "call", "site"]
    assert sorted(frame[keys].values.tolist()) == sorted(expected[keys].values.tolist())


def test_normalised_sites_have_no_drift_of_their_moments(tmp_path):
    frame, _ = record(tmp_path, make_net("normalised_mlp", dtype=torch.float64))
    rows = frame[(frame["layer"] == "1")].set_index("site")
    assert rows.loc["normalized", "mean_shift"] < 1e-12
    assert rows.loc["normalized", "log_variance_ratio"] < 1e-3  # eps inside sigma leaves a little
    assert rows.loc["normalized", "wasserstein_1"] > 1e-4
    assert rows.loc["preactivation", "mean_shift"] > 1e-3


def test_an_affine_change_has_the_divergence_of_its_closed_form(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3)).double()
    x = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = model(x).detach().numpy()
    scale, shift = 1.5, 0.25  # Wx + b becomes scale (Wx + b) + shift
    recorder = ics.Recorder(model, to=tmp_path, instruments={"drift": 1}, strict=True)
    with recorder, recorder.step(x), torch.no_grad():
        model[0].weight *= scale
        model[0].bias.mul_(scale).add_(shift)
    row = ics.open_run(tmp_path).table("drift", where={"site": "preactivation"}).iloc[0]
    moved = (scale - 1) * y.mean(0) + shift
    kl = np.mean(scale**2 + moved**2 / y.var(0) - 1 - np.log(scale**2)) / 2
    assert row["gaussian_kl"] == pytest.approx(kl, rel=1e-9)
    assert row["log_variance_ratio"] == pytest.approx(2 * np.log(scale), rel=1e-9)
    assert row["mean_shift"] == pytest.approx(np.mean(abs(moved) / y.std(0)), rel=1e-9)


def test_options_choose_batch_reference_and_sites(tmp_path):
    probe = make_batches(1, size=9, seed=8, dtype=torch.float64)[0]
    kept = probe[0].clone()
    options = {
        "probe_batch": {"images": probe[0]},
        "forward": lambda model, batch: model(batch["images"].mul_(1.0)),
        "reference_step": 1,
        "sites": "preactivation",
    }
    model, batches = two_layers(), make_batches(5, dtype=torch.float64)
    frame, parameters = record(tmp_path, model, batches=batches, options=options, schedule=2)
    assert torch.equal(probe[0], kept)
    assert set(frame["site"]) == {"preactivation"}
    assert sorted(set(zip(frame["step"], frame["reference"], strict=True))) == [
        (0, "before_update"),
        (2, "before_update"),  # the first step measured at or after step 1: nothing to compare yet
        (4, "before_update"),
        (4, "step_2"),
    ]
    row = frame[(frame["reference"] == "step_2") & (frame["layer"] == "3")].iloc[0]
    now, then = (sites_by_hand(parameters[step], (kept, None))["3", "preactivation"] for step in (4, 2))
    np.testing.assert_allclose(row[DISTANCES].astype(float), distances_by_hand(now, then), rtol=1e-9)


def test_of_micro_batches_the_first_is_the_probe_batch(tmp_path):
    model, micro = two_layers(), make_batches(3, dtype=torch.float64)
    before = weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments={"drift": 1}, strict=True)
    with recorder, recorder.step(micro):
        for batch in micro:
            loss_fn(model, batch).backward()
        optimizer.step()
    row = ics.open_run(tmp_path).table("drift", where={"layer": "3", "site": "preactivation"}).iloc[0]
    now, then = (sites_by_hand(at, micro[0])["3", "preactivation"] for at in (weights(model), before))
    np.testing.assert_allclose(row[DISTANCES].astype(float), distances_by_hand(now, then), rtol=1e-9)


def test_a_loss_that_calls_the_model_twice_takes_the_values_together(tmp_path):
    def both(model, batch):
        return loss_fn(model, (batch[0][:2], batch[1][:2])) + loss_fn(model, (batch[0][2:], batch[1][2:]))

    batches = make_batches(1, dtype=torch.float64)
    frame, parameters = record(tmp_path, two_layers(), batches=batches, loss=both)
    now, then = (sites_by_hand(at, batches[0])["1", "preactivation"] for at in (parameters[1], parameters[0]))
    row = frame[(frame["layer"] == "1") & (frame["site"] == "preactivation")].iloc[0]
    np.testing.assert_allclose(row[DISTANCES].astype(float), distances_by_hand(now, then), rtol=1e-9)


def test_a_single_sample_has_neither_spread_nor_halves(tmp_path):
    frame, _ = record(tmp_path, two_layers(), batches=make_batches(1, size=1, dtype=torch.float64))
    assert frame[DISTANCES + FLOORS].isna().all(axis=None)
    assert frame["null_reason"].str.contains("no channel varies").all()
    assert frame["null_reason"].str.contains("floor: there are no two samples").all()


def test_constant_channels_are_left_out_and_values_that_are_not_finite_are_not(tmp_path):
    model = two_layers()
    with torch.no_grad():
        model[1].weight[2] = 0  # x varies, this channel does not
    probe = make_batches(1, dtype=torch.float64)[0]
    batches = make_batches(1, seed=5, dtype=torch.float64)
    options = {"probe_batch": probe, "sites": "preactivation"}
    frame, parameters = record(tmp_path / "constant", model, batches=batches, options=options)
    then, now = (sites_by_hand(at, probe)["1", "preactivation"] for at in parameters)
    varying = [0, 1, 3, 4, 5]
    expected = distances_by_hand(now[:, varying], then[:, varying])
    np.testing.assert_allclose(frame.loc[0, DISTANCES].astype(float), expected, rtol=1e-9)
    probe[0][0, 0, 0, 0] = float("nan")
    options = {"probe_batch": probe, "sites": "input"}
    frame, _ = record(tmp_path / "nan", two_layers(), batches=batches, options=options)
    assert frame[DISTANCES + FLOORS].isna().all(axis=None)
    assert frame["null_reason"].str.contains("not finite").all()


def test_a_pass_that_calls_no_layer_is_warned_about(tmp_path):
    with pytest.warns(MeasurementWarning, match="called no layer"):
        frame, _ = record(tmp_path, two_layers(), options={"forward": lambda model, batch: None})
    assert len(frame) == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sites": ["preactivaton"]}, SelectionError, "preactivation"),
        ({"reference_step": -1}, UsageError, "reference_step >= 0"),
        ({"forward": "model"}, UsageError, "forward as a function"),
        ({"probe": 1}, SelectionError, "probe_batch"),
    ],
)
def test_mistakes_are_told_when_the_recorder_is_made(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        record(tmp_path / "run", two_layers(), options=options)
    assert not (tmp_path / "run").exists()


def test_a_batch_is_asked_for_unless_there_is_a_probe_batch(tmp_path):
    model, batch = two_layers(), make_batches(1, dtype=torch.float64)[0]
    recorder = ics.Recorder(model, to=tmp_path / "none", instruments={"drift": 1})
    with pytest.raises(UsageError, match=r"recorder.step\(batch\)"):
        recorder.step()
    recorder.close()
    options = {"drift": {"probe_batch": batch}}
    with ics.Recorder(model, to=tmp_path / "given", instruments={"drift": 1}, options=options) as recorder:
        with recorder.step():
            pass
    rows = ics.open_run(tmp_path / "given").table("drift")
    assert len(rows)
    assert rows[DISTANCES].isna().all(axis=None)  # no update, no drift: 0 would say that an update changed nothing
    assert set(rows["null_reason"]) == {"no parameter changed in the block"}


def test_parameters_that_the_model_writes_to_are_left_alone(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, max_norm=0.5), nn.Linear(3, 2))
    words = torch.tensor([[0, 1], [2, 3], [1, 4]])
    before = weights(model)
    with ics.Recorder(model, to=tmp_path, instruments={"drift": 1}, strict=True) as recorder:
        with recorder.step(words):
            pass
    assert all((before[name] == value).all() for name, value in weights(model).items())
