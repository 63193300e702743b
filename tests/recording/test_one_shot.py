"""The one-shot gradient shift takes the ways that the recorder's instrument takes, by the same names."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import ics
from ics.errors import UsageError
from ics.landscape import gradient_shift
from tests.recording.nets import loss_fn, make_batches, make_net

SHIFTED = ["shifted_gradient_norm", "shift_l2", "shift_cosine", "floor_l2"]


def shift(name, **options):
    """The shift of a float64 net after a step that is the same for the same net."""
    model = make_net(name, dtype=torch.float64)
    batch, second = make_batches(2, dtype=torch.float64)
    torch.manual_seed(3)
    after = {name: value.detach() + 0.1 * torch.randn_like(value) for name, value in model.named_parameters()}
    return ics.gradient_shift(model, loss_fn, batch, after, second_batch=second, **options)


@pytest.mark.parametrize("name", ["residual", "normalised_mlp"])
def test_chunks_give_the_same_bits_and_batches_the_same_numbers(name):
    full = shift(name)
    for chunk in (1, 2, 100):
        pd.testing.assert_frame_equal(shift(name, chunk=chunk), full, check_exact=True)
    batched = shift(name, batched=True)
    pd.testing.assert_frame_equal(batched[SHIFTED], full[SHIFTED], rtol=1e-10, atol=1e-12)
    assert full["shift_l2"].gt(0).any()


def test_what_is_asked_for_reaches_the_measurement(monkeypatch):
    asked = []

    def told(transition, **options):
        asked.append({name: options[name] for name in ("linearised", "batched", "chunk")})
        return gradient_shift(transition, **options)

    monkeypatch.setattr("ics.landscape.gradient_shift", told)
    for options in ({}, {"chunk": 2}, {"batched": True}, {"linearised": True}):
        shift("normalised_mlp", **options)
    usual = {"linearised": False, "batched": False, "chunk": None}
    assert asked == [usual, usual | {"chunk": 2}, usual | {"batched": True}, usual | {"linearised": True}]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"chunk": 0}, "a number of layers, 1 or more, got 0; type e.g. chunk=8"),
        ({"chunk": 2, "batched": True}, "got both; type one of them"),
    ],
)
def test_a_mistake_is_one_sentence(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        shift("normalised_mlp", **options)
