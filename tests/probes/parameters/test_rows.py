"""Rows of parameters: numbers taken in one go against numpy in float64, and the ways that are left to torch."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ics
from ics import stats
from ics.probes import ParameterWatch

NAMES = ("count", "mean", "m2", "minimum", "maximum", "zero_fraction", "negative_fraction", "nonfinite_count")


class Net(nn.Module):
    """A tied matrix, a frozen layer, one that nothing uses, a convolution, a scalar parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, bias=False)
        self.embed = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.embed.weight
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(6, 3)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        h = self.conv(x).mean((2, 3))
        return self.head(self.frozen(torch.tanh(self.tied(torch.relu(self.embed(h)))))) * self.temperature


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(num: int, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(5, 2, 4, 4, generator=generator, dtype=dtype), torch.randint(0, 3, (5,), generator=generator))
        for _ in range(num)
    ]


def record(to, model, data, *, options=None, optimizer=None, spoil=None, **kwargs):
    """Train; return the tables, and what a float64 observer saw: before, gradients, after of each step."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    seen = []
    options = {"gradients": {"sites": (), **(options or {})}}
    make = {"optimizer": optimizer, "instruments": {"gradients": 1}, "options": options, "strict": True, **kwargs}
    with ics.Recorder(model, to=to, **make) as recorder:
        for batch in data:
            before = snapshot(dict(model.named_parameters()))
            with recorder.step(batch):
                optimizer.zero_grad()
                loss_fn(model, batch).backward()
                if spoil is not None:
                    spoil(model)
                gradients = snapshot({name: x.grad for name, x in model.named_parameters() if x.grad is not None})
                optimizer.step()
                optimizer.zero_grad()
            seen.append((before, gradients, snapshot(dict(model.named_parameters()))))
    run = ics.open_run(to)
    return run.table("gradients"), run.table("steps"), seen


def snapshot(values):
    return {name: (x.to_dense() if x.is_sparse else x).detach().clone() for name, x in values.items()}


def check(frame: pd.DataFrame, steps: pd.DataFrame, seen, *, rtol=1e-12) -> None:
    assert set(frame["kind"]) == {"parameter"}
    for step, (before, gradients, after) in enumerate(seen):
        rows = frame[frame["step"] == step].set_index("of")
        assert rows.index.is_unique
        for name, row in rows.iterrows():
            w, change = before[name].double().numpy(), (after[name] - before[name]).double().numpy()
            assert row["parameter_norm"] == pytest.approx(np.linalg.norm(w), rel=rtol)
            assert row["update_norm"] == pytest.approx(np.linalg.norm(change), rel=rtol)
            if np.any(w):
                assert row["update_ratio"] == pytest.approx(np.linalg.norm(change) / np.linalg.norm(w), rel=rtol)
            if name in gradients:
                check_gradient(row, gradients[name].double().numpy().ravel(), rtol)
            else:
                assert np.isnan(row["gradient_norm"])
                assert np.isnan(row["mean"])
                assert row["null_reason"] in {
                    "the parameter is frozen: it needs no gradient",
                    "no gradient reached the optimizer",
                    "no optimizer was given, and the loop left no gradient in .grad",
                }
        total = np.sqrt(sum(np.sum(g.double().numpy() ** 2) for g in gradients.values()))
        moved = np.sqrt(sum(np.sum((after[name] - before[name]).double().numpy() ** 2) for name in before))
        assert steps["gradient_norm"][step] == pytest.approx(total, rel=rtol, nan_ok=True)
        assert steps["update_norm"][step] == pytest.approx(moved, rel=rtol, nan_ok=True)


def check_gradient(row, g: np.ndarray, rtol: float) -> None:
    assert pd.isna(row["null_reason"])
    assert row["gradient_norm"] == pytest.approx(np.linalg.norm(g), rel=rtol, nan_ok=True)
    finite = g[np.isfinite(g)]
    assert (row["count"], row["nonfinite_count"]) == (len(finite), len(g) - len(finite))
    assert (row["minimum"], row["maximum"]) == (finite.min(), finite.max())
    assert row["mean"] == pytest.approx(finite.mean(), rel=1e-5, abs=1e-6 * np.abs(finite).max())
    assert row["m2"] == pytest.approx(finite.var(), rel=1e-5, abs=1e-30)
    assert row["zero_fraction"] == pytest.approx((finite == 0).mean())
    assert row["negative_fraction"] == pytest.approx((finite < 0).mean())


@pytest.fixture(params=["together", "separate"])
def way(request, monkeypatch):
    """Numbers of all parameters in one go; and the same nets by the operations that everything else is left to."""
    calls = []
    measure = ParameterWatch.gradients

    def watched(self, *args, **kwargs):
        found = measure(self, *args, **kwargs) if request.param == "together" else None
        calls.append(found)
        return found

    monkeypatch.setattr(ParameterWatch, "gradients", watched)
    yield request.param
    assert calls
    assert all((found is not None) == (request.param == "together") for found in calls)


@pytest.mark.parametrize("per_channel", [False, True])
def test_rows_are_those_of_float64_with_tied_frozen_and_unused_parameters(tmp_path, way, per_channel):
    torch.manual_seed(0)
    model = Net()
    frame, steps, seen = record(tmp_path / "run", model, batches(3), options={"per_channel": per_channel})
    check(frame, steps, seen)
    assert {"embed.weight", "conv.weight", "frozen.weight"} <= set(frame["of"])
    assert "tied.weight" not in set(frame["of"])
    conv = frame[(frame["of"] == "conv.weight") & (frame["step"] == 1)].iloc[0]
    if per_channel:
        means = seen[1][1]["conv.weight"].double().mean((1, 2, 3)).numpy()
        np.testing.assert_allclose(conv["channel_mean"], means, rtol=1e-5, atol=1e-9)
    else:
        assert conv["channel_mean"] is None
    dense = stats.histogram(seen[1][1]["conv.weight"])
    assert conv["histogram"].tolist() == dense[dense > 0].tolist()


def test_both_ways_give_the_same_rows(tmp_path, monkeypatch):
    frames = {}
    for name in ("together", "separate"):
        if name == "separate":
            monkeypatch.setattr(ParameterWatch, "gradients", lambda *_, **__: None)
        torch.manual_seed(0)
        frames[name] = record(tmp_path / name, Net(), batches(3), options={"per_channel": False})[:2]
    for one, other in zip(*frames.values(), strict=True):
        one, other = (frame.drop(columns=["duration", "measuring_duration"], errors="ignore") for frame in (one, other))
        pd.testing.assert_frame_equal(one, other, rtol=1e-5, atol=1e-7)  # a mean of what cancels is rounding


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_counted_and_shows_in_the_norms(tmp_path, way, value):
    def spoil(model):
        model.head.weight.grad[0, 1] = value

    torch.manual_seed(0)
    frame, steps, seen = record(tmp_path / "run", Net(), batches(1), options={"per_channel": False}, spoil=spoil)
    row = frame.set_index("of").loc["head.weight"]
    assert row["nonfinite_count"] == 1
    assert np.isfinite(row["mean"])
    np.testing.assert_equal(row["gradient_norm"], value)
    np.testing.assert_equal(steps["gradient_norm"][0], value)
    check(frame[frame["of"] != "head.weight"], steps, seen)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_types_are_measured_by_separate_operations(tmp_path, dtype):
    torch.manual_seed(0)
    model = Net().to(dtype)
    check(*record(tmp_path / "run", model, batches(2, dtype), options={"per_channel": False}))


def test_sparse_gradients_and_no_gradients_at_all(tmp_path):
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(9, 3, sparse=True)

        def forward(self, x):
            return self.words(x).mean(1)

    data = [(torch.randint(0, 9, (5, 4)), torch.randint(0, 3, (5,))) for _ in range(2)]
    model = Words()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    check(*record(tmp_path / "sparse", model, data, optimizer=optimizer, options={"per_channel": False}))
    cleared = record(
        tmp_path / "none", Net(), batches(2), spoil=lambda model: model.zero_grad(), options={"per_channel": False}
    )
    check(cleared[0], cleared[1].fillna({"gradient_norm": 0.0}), cleared[2])
    assert cleared[1]["gradient_norm"].isna().all()


def test_memory_layouts(tmp_path, way):
    torch.manual_seed(0)
    model = Net().to(memory_format=torch.channels_last)
    model.head.weight = nn.Parameter(torch.randn(6, 3).T)
    assert not model.head.weight.is_contiguous()
    check(*record(tmp_path / "run", model, batches(3), options={"per_channel": False}))


def test_a_parameter_that_is_replaced_or_added_during_training_is_seen(tmp_path):
    torch.manual_seed(0)
    model = Net()
    watch = ParameterWatch(model)
    assert watch.named() == dict(model.named_parameters())
    model.head.weight = nn.Parameter(torch.zeros(3, 6))
    model.conv.extra = nn.Parameter(torch.zeros(2))
    model.more = nn.Linear(2, 2)
    assert list(watch.named()) == [name for name, _ in model.named_parameters()]
    assert all(watch.named()[name] is parameter for name, parameter in model.named_parameters())
    del model.conv.extra
    assert "conv.extra" not in watch.named()


def test_copies_until_the_next_step_share_memory_and_others_do_not():
    model = Net()
    watch = ParameterWatch(model)
    first = watch.keep(until_next=True)
    kept = watch.keep(until_next=False)
    with torch.no_grad():
        model.head.weight.add_(1)
    second = watch.keep(until_next=True)
    assert first["head.weight"] is second["head.weight"]
    assert torch.equal(second["head.weight"], model.head.weight)
    assert torch.equal(kept["head.weight"] + 1, model.head.weight)
    assert not any(value.requires_grad for value in second.values())
    assert second["head.weight"].data_ptr() != model.head.weight.data_ptr()


def test_an_update_ratio_to_a_parameter_of_zeros_is_null(tmp_path, way):
    model = Net()
    nn.init.zeros_(model.head.bias)
    record(tmp_path / "run", model, batches(1), options={"per_channel": False})
    ratios = ics.open_run(tmp_path / "run").arrow("gradients").to_pylist()
    assert {row["of"]: row["update_ratio"] for row in ratios}["head.bias"] is None


def test_training_is_bit_identical_and_gradients_are_not_cloned(tmp_path):
    ends = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        if recorded:
            record(tmp_path / "run", model, batches(4), optimizer=optimizer)
        else:
            for batch in batches(4):
                optimizer.zero_grad()
                loss_fn(model, batch).backward()
                optimizer.step()
        ends.append([x.detach().clone() for x in model.parameters()])
    assert all(map(torch.equal, *ends))


def test_an_error_of_measuring_does_not_reach_the_optimizer(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(ParameterWatch, "gradients", broken)
    model = Net()
    with pytest.warns(ics.errors.MeasurementWarning, match="out of luck"):
        frame, steps, _ = record(tmp_path / "run", model, batches(2), strict=False)
    assert len(steps) == 2
    assert frame is None or not len(frame)
