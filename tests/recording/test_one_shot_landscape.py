"""The one-shot attribution and slice say what the measurements beneath them say, and leave the model as it is."""

from __future__ import annotations

import pytest
import torch

import ics
from ics.errors import SelectionError, UsageError
from ics.landscape import Objective, loss_slice
from ics.schema import ATTRIBUTION, REMAINDER
from tests.recording.nets import loss_fn, make_batches, make_net


def updated(model, rate=0.1):
    """Parameters after a step of plain gradient descent, taken on no batch in particular."""
    torch.manual_seed(3)
    return {name: value.detach() + rate * torch.randn_like(value) for name, value in model.named_parameters()}


def test_attribution_adds_up_to_the_shift_that_gradient_shift_reports():
    model = make_net("residual", dtype=torch.float64)
    batch, after = make_batches(1, dtype=torch.float64)[0], updated(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    frame = ics.attribution(model, loss_fn, batch, after)
    assert ["step", *frame.columns] == list(ATTRIBUTION.column_names)
    torch.manual_seed(5)
    shift = ics.gradient_shift(model, loss_fn, batch, after).set_index(["layer", "parameters"])
    for (layer, parameters), rows in frame.groupby(["layer", "parameters"]):
        wanted = shift.loc[(layer, parameters)]
        assert rows["whole_shift_l2"].tolist() == pytest.approx([wanted["shift_l2"]] * len(rows), rel=1e-12)
        assert len(rows) == wanted["layer_index"] + 1
        assert list(rows["source_layer"])[-1] == REMAINDER
        if wanted["layer_index"]:
            assert rows["share"].sum() == pytest.approx(1.0, rel=1e-10)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_attribution_of_chosen_layers():
    model = make_net("residual")
    frame = ics.attribution(model, loss_fn, make_batches(1)[0], updated(model), layers=["head"])
    assert set(frame["layer"]) == {"head"}
    assert len(frame) > 4
    with pytest.raises(SelectionError, match="head"):
        ics.attribution(model, loss_fn, make_batches(1)[0], updated(model), layers=["haed"])


def test_a_slice_is_a_frame_of_what_the_landscape_measures():
    model = make_net("residual")
    batch = make_batches(1)[0]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    wanted = loss_slice(Objective(model, loss_fn, batch), dict(model.named_parameters()), num_points=3, dimensions=2)
    frame = ics.loss_slice(model, loss_fn, batch, num_points=3, dimensions=2)  # evaluating drew no random number
    assert frame.to_dict("list") == wanted
    assert frame.loc[(frame["alpha"] == 0) & (frame["beta"] == 0), "distance"].tolist() == [0]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    with pytest.raises(UsageError, match="dimensions"):
        ics.loss_slice(model, loss_fn, batch, dimensions=3)


def test_a_slice_over_micro_batches_is_the_sum_of_their_losses():
    model = make_net("residual", dtype=torch.float64).eval()
    micro = make_batches(2, dtype=torch.float64)
    together = ics.loss_slice(model, loss_fn, micro, num_points=3)["loss"]
    apart = [ics.loss_slice(model, loss_fn, batch, num_points=3)["loss"] for batch in micro]
    assert together.tolist() == pytest.approx((apart[0] + apart[1]).tolist(), rel=1e-12)
