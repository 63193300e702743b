"""Values of every site against a hand-written forward pass, and which tensor is taken for which site."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ics.errors import MeasurementWarning, SelectionError, UsageError
from ics.probes import Probes
from tests.probes.nets import dense, residual, residual_by_hand
from tests.probes.rows import Key, activations, assert_row, expected, gradients, probed

AXES = {"head": -1}


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_site_of_a_residual_net_is_what_numpy_says_of_the_hand_written_intermediate(batch: int) -> None:
    net, x = residual(batch=batch)
    state = torch.get_rng_state()
    rows = activations(probed(net, lambda: net(x)))
    torch.set_rng_state(state)
    sites, _ = residual_by_hand(net, x)

    assert list(rows) == list(sites)  # the same rows, in the order of execution, whatever the batch size
    for key, tensor in sites.items():
        assert_row(rows[key], tensor, axis=AXES.get(key[0], 1))


def test_an_inplace_relu_does_not_reach_the_preactivation() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    rows = activations(probed(net, lambda: net(x)))
    assert rows["0", 0, "preactivation"]["negative_fraction"] > 0.2
    assert rows["0", 0, "activation"]["negative_fraction"] == 0
    assert_row(rows["0", 0, "preactivation"], net[0](x), axis=1)


def test_layer_index_counts_layers_in_the_order_of_execution() -> None:
    net, x = residual(batch=2)
    rows = activations(probed(net, lambda: net(x)))
    assert {layer: row["layer_index"] for (layer, _, _), row in rows.items()} == {
        "stem": 0,
        "conv": 1,
        "relu": 1,  # of a sum, no layer of its own: it has the number of the layer before it
        "head": 2,
    }


def test_sources_name_what_made_the_tensor() -> None:
    net, x = residual(batch=2)
    rows = activations(probed(net, lambda: net(x)))
    sources = {key: row["source"] for key, row in rows.items()}
    assert sources["stem", 0, "input"] is None
    assert sources["stem", 0, "preactivation"] == "Conv2d"
    assert sources["stem", 0, "normalized"] == "BatchNorm2d"
    assert sources["stem", 0, "activation"] == "ReLU"
    assert sources["conv", 0, "input"] == "ReLU"
    assert sources["head", 0, "input"] == "Dropout"


def test_reused_modules_are_kept_apart_by_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.act = nn.Linear(4, 4), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.layer(self.act(self.layer(x))))

    net = Twice().double()
    x = torch.randn(5, 4, dtype=torch.float64)
    rows = activations(probed(net, lambda: net(x)))
    w, b = net.layer.weight, net.layer.bias
    first = torch.tanh(x @ w.T + b)
    sites: dict[Key, Tensor] = {
        ("layer", 0, "input"): x,
        ("layer", 0, "preactivation"): x @ w.T + b,
        ("layer", 0, "activation"): first,
        ("layer", 1, "input"): first,
        ("layer", 1, "preactivation"): first @ w.T + b,
        ("layer", 1, "activation"): torch.tanh(first @ w.T + b),
    }
    assert list(rows) == list(sites)
    for key, tensor in sites.items():
        assert_row(rows[key], tensor, axis=1)


class Outputs(nn.Module):
    """A layer that wraps its output as told."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(x @ self.weight)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: y,
        lambda y: (y, y * 2),
        lambda y: [torch.arange(3), y],
        lambda y: {"logits": y, "loss": y.sum()},
        lambda y: OrderedDict(hidden=(None, y)),
    ],
)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_first_tensor_of_any_output_is_taken_whole(wrap: Any, batch: int) -> None:
    net = Outputs(wrap)
    x = torch.randn(batch, 3, dtype=torch.float64)
    rows = activations(probed(net, lambda: net(x)))
    assert list(rows) == [("(root)", 0, "input"), ("(root)", 0, "preactivation")]
    assert_row(rows["(root)", 0, "preactivation"], x @ net.weight, axis=1)  # not row by row over the batch axis


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_lstm_attention_and_embedding(batch: int) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 4)
            self.lstm = nn.LSTM(4, 6, batch_first=True)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            hidden, _ = self.lstm(self.embed(tokens))
            return self.attention(hidden, key=hidden, value=hidden)[0]

    net = Reader().double()
    tokens = torch.randint(9, (batch, 5))
    rows = activations(probed(net, lambda: net(tokens)))
    embedded = net.embed.weight[tokens]
    hidden = net.lstm(embedded)[0]
    sites = {
        ("embed", 0, "preactivation"): embedded,  # integers have no moments: no row for its input
        ("lstm", 0, "input"): embedded,
        ("lstm", 0, "preactivation"): hidden,
        ("attention", 0, "input"): hidden,
        ("attention", 0, "preactivation"): net.attention(hidden, hidden, hidden)[0],
    }
    assert list(rows) == list(sites)
    for key, tensor in sites.items():
        assert_row(rows[key], tensor, axis=-1)


def test_channels_of_unbatched_images_and_of_layers_outputs() -> None:
    net = nn.Conv1d(2, 3, 1).double()
    image = torch.randn(2, 6, dtype=torch.float64)
    row = activations(probed(net, lambda: net(image)))["(root)", 0, "preactivation"]
    np.testing.assert_allclose(row["channel_mean"], net(image).mean(1).detach())
    assert row["channel_count"].tolist() == [6, 6, 6]


def test_a_container_that_owns_a_parameter_has_no_preactivation() -> None:
    class WithToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 3))
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.cat([self.token, x])) * 2

    net, x = WithToken(), torch.randn(2, 3, requires_grad=True)
    probes = probed(net, lambda: net(x).sum().backward())
    expected_rows = [("layer", 0, "input"), ("layer", 0, "preactivation")]
    assert list(activations(probes)) == list(gradients(probes)) == expected_rows


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_modules_are_passed_over() -> None:
    scripted = torch.jit.trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.ones(2, 3))
    net = nn.Sequential(nn.Linear(3, 3), scripted)
    rows = activations(probed(net, lambda: net(torch.ones(2, 3))))
    assert list(rows) == [("0", 0, "input"), ("0", 0, "preactivation")]


def test_a_layer_that_applies_its_own_activation_shows_no_preactivation() -> None:
    class Dense(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(super().forward(x))

    net = Dense(3, 4)
    x = torch.randn(5, 3)
    rows = activations(probed(net, lambda: net(x)))
    assert list(rows) == [("(root)", 0, "input"), ("(root)", 0, "activation")]
    assert rows["(root)", 0, "activation"]["negative_fraction"] == 0


def test_micro_batches_merge_into_the_statistics_of_all_of_them() -> None:
    net = dense(3, 4, 2)
    batches = [torch.randn(size, 3, dtype=torch.float64) for size in (2, 5, 1)]
    rows = activations(probed(net, lambda: [net(batch) for batch in batches]))
    whole = activations(probed(net, lambda: net(torch.cat(batches))))
    assert list(rows) == list(whole)
    assert rows["2", 0, "preactivation"]["count"] == 8 * 2
    for key, row in whole.items():
        np.testing.assert_array_equal(row["histogram"], rows[key]["histogram"])
        for name in ("mean", "m2", "m3", "m4", "channel_mean", "channel_m4", "minimum", "zero_fraction"):
            np.testing.assert_allclose(rows[key][name], row[name], rtol=1e-10, atol=1e-14)


def test_parts_called_from_outside_the_model_are_calls_of_one_pass() -> None:
    net = nn.ModuleDict({"encoder": nn.Linear(3, 3), "decoder": nn.Linear(3, 3)})
    batches = [torch.randn(2, 3), torch.randn(4, 3)]
    rows = activations(probed(net, lambda: [net["decoder"](net["encoder"](batch)) for batch in batches]))
    assert [key[:2] for key in rows] == [("encoder", 0), ("encoder", 0), ("decoder", 0), ("decoder", 0)]
    assert all(row["count"] == 18 for row in rows.values())


def test_varying_numbers_of_channels_keep_the_pooled_statistics() -> None:
    class Scores(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(x @ x.T)

    net = Scores()
    batches = [torch.randn(size, 3, dtype=torch.float64) for size in (2, 5)]
    (row,) = activations(probed(net, lambda: [net(batch) for batch in batches])).values()
    values = torch.cat([net(batch).reshape(-1) for batch in batches])
    assert row["mean"] == pytest.approx(expected(values, axis=0)["channel_mean"].mean())
    assert row["channel_mean"] is None
    assert "number of channels" in row["null_reason"]


def test_options_leave_out_sites_layers_histograms_and_channels() -> None:
    net = dense(3, 4, 2)
    x = torch.randn(2, 3, dtype=torch.float64)
    rows = activations(
        probed(net, lambda: net(x), sites=["activation"], layers="2", histogram=False, per_channel=False)
    )
    (row,) = rows.values()
    assert next(iter(rows)) == ("2", 0, "activation")
    assert row["layer_index"] == 1  # what is left out keeps its place
    assert row["histogram"] is None
    assert row["channel_mean"] is None


def test_only_what_is_asked_for_comes_back() -> None:
    net = dense(3, 2)
    probes = Probes(net, activations=False, gradients=False, normalization=True)
    with probes:
        net(torch.randn(2, 3, dtype=torch.float64))
    (block,) = probes.blocks()
    assert (block.table, block.num_rows) == ("normalization", 0)


def test_mistakes_get_one_sentence() -> None:
    net = dense(3, 2)
    with pytest.raises(SelectionError, match="did you mean 'preactivation'"):
        probed(net, lambda: None, sites=["preactivations"])
    with pytest.raises(SelectionError, match="no layer is named 'conv9'"):
        probed(net, lambda: None, layers="conv9")
    with pytest.warns(MeasurementWarning, match="saw no layer"):
        probed(net, lambda: None)
    with pytest.raises(UsageError, match="armed once at a time"):
        probes = Probes(net, activations=True, gradients=False, normalization=False)
        with probes, probes:
            pass


def test_nonfinite_values_are_counted_not_dropped() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU()).double()
    x = torch.tensor([[1.0, torch.inf], [1.0, 2.0]], dtype=torch.float64)
    row = activations(probed(net, lambda: net(x)))["0", 0, "input"]
    assert (row["count"], row["nonfinite_count"], row["mean"]) == (3, 1, pytest.approx(4 / 3))
