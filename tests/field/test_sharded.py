"""A sharded model (FSDP) trains on as it would unmeasured; what would run it again is switched off, and says so."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

import ics
from ics.errors import MeasurementWarning

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def wrapped(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))
    if kind == "FullyShardedDataParallel":
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))


def train(kind, tmp_path, instruments):
    """Return the losses and the run."""
    model, losses = wrapped(kind), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = ics.Recorder(model, loss_fn, to=tmp_path, optimizer=optimizer, instruments=instruments)
    torch.manual_seed(1)
    for _ in range(4):
        batch = torch.randn(6, 4), torch.randn(6, 2)
        with recorder.step(batch):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    recorder.close()
    return losses, ics.open_run(tmp_path)


def loss_fn(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


@pytest.mark.parametrize("kind", ["FullyShardedDataParallel", "fully_shard"])
def test_a_sharded_model_trains_on_as_it_would_unmeasured(kind, group, tmp_path):
    every = dict.fromkeys(("activations", "gradients", "gradient_shift", "gradient_line", "curvature", "drift"), 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plain, _ = train(kind, tmp_path / "plain", {"activations": ics.at([99])})
        losses, run = train(kind, tmp_path / "measured", every)
    assert losses == plain
    told = [str(each.message) for each in caught if issubclass(each.category, MeasurementWarning)]
    said = "curvature and drift and gradient_line and gradient_shift switched off: the model is sharded (FSDP)"
    assert sum(text.startswith(said) for text in told) == 1
    assert len(told) == len(set(told))
    assert any(note.startswith(said) for note in run.info["notes"])
    if kind == "FullyShardedDataParallel":
        assert set(run.table("activations")["step"]) == {0, 1, 2, 3}
