"""Layers without width and complex layers: norms are right, and what is not defined is null with its reason."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ics
from ics.errors import MeasurementWarning

PASSES = ("activations", "gradients", "normalization")
LANDSCAPE = ("gradient_shift", "gradient_line", "attribution", "drift")


class ZeroWidth(nn.Module):
    """A branch that a search for architectures has pruned to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Linear(4, 5), nn.Linear(5, 2)
        self.z = nn.Linear(4, 0)

    def forward(self, x):
        return self.h(torch.cat([torch.tanh(self.a(x)), torch.tanh(self.z(x))], 1))


class ZeroRank(nn.Module):
    """An adapter of rank 0 beside a layer: two layers with nothing between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Linear(4, 5), nn.Linear(5, 2)
        self.z, self.up = nn.Linear(4, 0, bias=False), nn.Linear(0, 5, bias=False)

    def forward(self, x):
        return self.h(torch.tanh(self.a(x) + self.up(self.z(x))))


class ComplexWeights(nn.Module):
    """A Fourier layer: real in, complex weights, real out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Linear(4, 5), nn.Linear(3, 2)
        self.c = nn.Linear(5, 3, dtype=torch.complex64)

    def forward(self, x):
        return self.h(self.c(torch.tanh(self.a(x)).to(torch.complex64)).abs())


class ComplexParameter(nn.Module):
    """A spectral weight of the net's own, between two real layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Linear(4, 6), nn.Linear(6, 2)
        self.spectral = nn.Parameter(torch.randn(4, dtype=torch.complex64))

    def forward(self, x):
        return self.h(torch.fft.irfft(torch.fft.rfft(torch.tanh(self.a(x))) * self.spectral, n=6))


NETS = {net.__name__: net for net in (ZeroWidth, ZeroRank, ComplexWeights, ComplexParameter)}


def loss_fn(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def made(name):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return NETS[name]()


def batches(num=3):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 4, generator=generator), torch.randn(6, 2, generator=generator)) for _ in range(num)]


def train(name, tmp_path=None, instruments=()):
    """Train; return the model, and of each step the weights before it and the gradients that it used."""
    model, seen = made(name), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = None
    if tmp_path is not None:
        every = dict.fromkeys(instruments, 1)
        recorder = ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments=every, flush_every=1)
    for batch in batches():
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        if recorder is None:
            one_step(model, optimizer, batch)
        else:
            with recorder.step(batch):
                one_step(model, optimizer, batch)
        seen.append((before, {key: value.grad.clone() for key, value in model.named_parameters()}))
    if recorder is not None:
        recorder.close()
    return model, seen


def one_step(model, optimizer, batch):
    optimizer.zero_grad()
    loss_fn(model, batch).backward()
    optimizer.step()


def length(tensor):
    """l2 norm in double precision, by numpy."""
    return float(np.sqrt((np.abs(tensor.detach().numpy().astype(np.complex128)) ** 2).sum()))


@pytest.mark.parametrize("name", NETS)
def test_every_instrument_is_measured_without_a_warning_and_training_is_the_same(name, tmp_path):
    plain, _ = train(name)
    model, _ = train(name, tmp_path, (*PASSES, *LANDSCAPE))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in plain.state_dict().items())
    run = ics.open_run(tmp_path)
    assert not run.info.get("notes")
    for table in ("activations", "gradients", *LANDSCAPE, "steps"):
        assert set(run.table(table)["step"]) == {0, 1, 2}, table


@pytest.mark.parametrize("name", NETS)
def test_norms_of_parameters_gradients_and_updates_are_right(name, tmp_path):
    _, seen = train(name, tmp_path, ("gradients",))
    rows = ics.open_run(tmp_path).table("gradients").query("kind == 'parameter'")
    assert len(rows) == 3 * len(seen[0][0])
    for row in rows.itertuples():
        before, gradients = seen[row.step]
        assert row.parameter_norm == pytest.approx(length(before[row.of]), rel=1e-6)
        assert row.gradient_norm == pytest.approx(length(gradients[row.of]), rel=1e-6)
        assert row.update_norm == pytest.approx(0.1 * length(gradients[row.of]), rel=1e-4)
        if gradients[row.of].is_complex():
            assert "complex" in row.null_reason
            assert np.isnan(row.mean)
        elif gradients[row.of].numel() == 0:
            assert row.null_reason == "no finite values"
            assert row.count == 0
        else:
            assert row.mean == pytest.approx(gradients[row.of].double().mean().item(), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", ["ZeroWidth", "ZeroRank"])
def test_sites_without_values_say_so_and_the_others_are_right(name, tmp_path):
    train(name, tmp_path, ("activations",))
    run = ics.open_run(tmp_path)
    rows = run.table("activations").query("step == 0").set_index(["layer", "site"])
    assert rows.loc[("z", "preactivation"), "null_reason"] == "no finite values"
    assert rows.loc[("z", "preactivation"), "count"] == 0
    assert np.isnan(rows.loc[("z", "preactivation"), "mean"])
    right = made(name).a(batches()[0][0]).double()
    assert rows.loc[("a", "preactivation"), "mean"] == pytest.approx(right.mean().item(), rel=1e-5)
    assert rows.loc[("a", "preactivation"), "m2"] == pytest.approx(right.var(unbiased=False).item(), rel=1e-5)


def test_the_shift_of_a_complex_layer_is_that_of_its_real_and_imaginary_parts(tmp_path):
    """G' of the layer `c`: the layers before it moved, it and those behind at W(t)."""
    _, seen = train("ComplexWeights", tmp_path, ("gradient_shift",))
    before, after, batch = seen[1][0], seen[2][0], batches()[1]

    def gradient(moved):
        values = {key: (after if key.split(".")[0] in moved else before)[key] for key in before}
        w = {key: value.to(torch.complex128 if value.is_complex() else torch.float64) for key, value in values.items()}
        weight, bias = w["c.weight"].requires_grad_(), w["c.bias"].requires_grad_()
        h = torch.tanh(F.linear(batch[0].double(), w["a.weight"], w["a.bias"])).to(torch.complex128)
        loss = F.mse_loss(F.linear(F.linear(h, weight, bias).abs(), w["h.weight"], w["h.bias"]), batch[1].double())
        parts = torch.autograd.grad(loss, [weight, bias])
        return torch.cat([torch.view_as_real(part).flatten() for part in parts])

    at, shifted = gradient(set()), gradient({"a"})
    rows = ics.open_run(tmp_path).table("gradient_shift").query("step == 1 and layer == 'c' and parameters == 'all'")
    assert rows["shift_l2"].item() == pytest.approx((shifted - at).norm().item(), rel=1e-3)
    assert rows["shift_cosine"].item() == pytest.approx(torch.cosine_similarity(shifted, at, dim=0).item(), abs=1e-5)


def test_sites_of_a_complex_layer_are_null_and_say_why_at_every_step(tmp_path):
    train("ComplexWeights", tmp_path, PASSES)
    run = ics.open_run(tmp_path)
    rows = run.table("activations")
    assert len(rows) == 3 * 7
    theirs = rows[rows["layer"] == "c"]
    assert sorted(theirs["site"]) == ["input"] * 3 + ["preactivation"] * 3
    assert theirs["null_reason"].str.contains("complex").all()
    assert theirs["mean"].isna().all()
    assert rows[rows["layer"] != "c"]["null_reason"].isna().all()
    gradients = run.table("gradients").query("kind == 'site' and layer == 'c'")
    assert gradients["null_reason"].str.contains("complex").all()
    assert len(gradients) == 6


@pytest.mark.parametrize("name", ["ComplexWeights", "ComplexParameter"])
def test_curvature_of_complex_parameters_is_left_out_in_our_words_and_alone(name, tmp_path):
    with pytest.warns(MeasurementWarning, match="curvature switched off .* expects real parameters") as caught:
        train(name, tmp_path, ("curvature", "gradient_shift"))
    assert len(caught) == 1
    assert set(ics.open_run(tmp_path).table("gradient_shift")["step"]) == {0, 1, 2}
