"""Prefix reuse against the slow reference, bit for bit, on the families of nets that people train."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from tests.reference.equality import compare
from tests.reference.families import FAMILIES

DOCS = Path(__file__).parents[4] / "docs"
QUICK = ["squeezenet", "vit", "convnext", "transformer_encoder", "split_attention"]
QUICK += ["lstm", "tied_embeddings", "sync_batch_norm", "instance_norm", "reused", "under_no_grad", "checkpointed"]
QUICK += ["branching", "hypernetwork", "spectral_norm", "leaves_on_itself", "leaves_on_a_child", "moving_average"]
QUICK += ["leaves_in_an_object", "leaves_detached", "leaves_in_a_dictionary", "between_in_an_object", "hooked"]
QUICK += ["writes_into_its_input", "views", "shared_memory"]


def hold_against_the_reference(name, dtype):
    found = compare(FAMILIES[name], dtype)
    assert found.finite
    assert found.moved >= 0.6 * (found.layers - 1), "without a shift, equality says nothing"
    assert (found.equal, found.difference, found.worst) == (found.layers, 0.0, None)
    return found


@pytest.mark.parametrize("name", QUICK)
def test_every_bit_of_every_layer_equals_the_reference(name):
    hold_against_the_reference(name, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_equals_the_reference_bit_for_bit(name, dtype):
    hold_against_the_reference(name, dtype)


@pytest.mark.parametrize("name", ["vit", "split_attention", "lstm", "leaves_on_itself", "views"])
def test_the_prefix_is_kept_where_a_net_allows_it(name):
    assert compare(FAMILIES[name], torch.float32).fell_back is None


def test_a_comparison_sees_a_wrong_gradient(monkeypatch):
    def present_gradients(plan):
        for layer in plan.layers:
            yield layer, {name: plan.transition.gradients[name] for name in layer.parameters}

    monkeypatch.setattr("tests.reference.equality.prefix_reuse", present_gradients)
    found = compare(FAMILIES["layer_norm"], torch.float32)
    assert found.equal == found.layers - found.moved == 1
    assert found.difference > 0


def test_the_page_lists_every_family_and_all_are_equal():
    page = (DOCS / "equality.md").read_text()
    with (DOCS / "equality.csv").open(newline="") as file:
        rows = {row["family"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(FAMILIES)
    for name, row in rows.items():
        assert f"| {name} | {row['layers']} |" in page
        assert row["equal_float32"] == row["equal_float64"] == row["layers"], name
