"""How far distributions move, at the places that all nets have, against arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from ics.claims import Evidence
from ics.claims.measures.stability import before_activation, movement, seen, skewness_change
from ics.claims.method.effects import per_seed
from tests.claims.made_up import distributions, diverging, losses

NORM_BEHIND = ("input", "normalized", "scaled")
"""The sites of a norm that stands behind an activation: it has rows of its own, and computes no Wu + b."""


def found(*rows: list, steps: list | None = None) -> Evidence:
    activations = pd.DataFrame([row for own in rows for row in own])
    return Evidence.of_frames({"activations": activations, "steps": pd.DataFrame(steps or losses("a", 0.1))})


def test_seen_are_the_inputs_of_layers_with_weights_but_for_the_first() -> None:
    behind = distributions("a", sites=NORM_BEHIND, layers=("activation_norm1", "activation_norm2"))
    rows = seen(found(distributions("a"), behind))
    assert set(rows["layer"]) == {"linear2", "linear3"}
    assert set(rows["site"]) == {"input"}


def test_the_argument_of_the_activation_is_what_the_norm_returns_where_there_is_one() -> None:
    with_norm = distributions("a", sites=("input", "preactivation", "scaled", "activation"), layers=("linear1",))
    without = distributions("a", layers=("linear2",))
    output = distributions("a", sites=("input", "preactivation"), layers=("output",))
    behind = distributions("a", sites=NORM_BEHIND, layers=("activation_norm1",))
    rows = before_activation(found(with_norm, without, output, behind))
    assert dict(zip(rows["layer"], rows["site"], strict=True)) == {"linear1": "scaled", "linear2": "preactivation"}


@pytest.mark.parametrize(("reference", "steps_back"), [("previous", 1.0), ("first", 1.5)])
def test_movement_by_hand(reference, steps_back) -> None:
    # Means 0, p, 2p at variance 1: p from measurement to measurement; p and 2p since the first, median 1.5 p.
    evidence = found(distributions("a", pace=0.3))
    moved = movement(evidence, seen(evidence), "mean_shift", reference=reference)
    assert moved["a", 0] == pytest.approx(0.3 * steps_back)
    assert moved["a", 4] == pytest.approx(0.3 * steps_back * 1.04)
    evidence = found(distributions("a", pace=0.0, spread=0.2))
    moved = movement(evidence, seen(evidence), "log_variance_ratio", reference=reference)
    assert moved["a", 0] == pytest.approx(0.2 * steps_back)


@pytest.mark.parametrize(("reference", "steps_back"), [("previous", 1.0), ("first", 1.5)])
def test_skewness_by_hand(reference, steps_back) -> None:
    rows = pd.DataFrame(distributions("a", pace=5.0, spread=1.0, skewing=0.4))
    change = per_seed(skewness_change(rows, reference=reference), "skewness_change")
    assert change["a", 0] == pytest.approx(0.4 * steps_back)
    still = pd.DataFrame(distributions("a", pace=5.0, spread=1.0))
    assert skewness_change(still, reference=reference)["skewness_change"].max() == pytest.approx(0.0)


def test_a_channel_without_variance_has_no_skewness() -> None:
    rows = distributions("a", skewing=0.4)
    for row in rows:
        row["channel_m2"] = row["channel_m2"] * np.array([1.0, 1.0, 0.0])
    change = skewness_change(pd.DataFrame(rows), reference="previous")
    assert change["skewness_change"].notna().all()


def test_a_net_that_diverged_has_moved_infinitely_far() -> None:
    both = [*diverging("a"), *losses("b", 0.1)]
    evidence = found(distributions("a"), distributions("b"), steps=both)
    moved = movement(evidence, seen(evidence), "mean_shift", reference="previous")
    assert moved["a", 0] == math.inf
    assert moved["b", 0] == pytest.approx(0.1)


def test_only_steps_so_far_apart() -> None:
    rows = distributions("a", pace=0.3)
    for row in rows:
        row["step"] = {0: 0, 20: 1, 40: 20}[row["step"]]
        row["channel_mean"] = row["channel_mean"] * (5 if row["step"] == 20 else 1)
    evidence = found(rows)
    moved = movement(evidence, seen(evidence), "mean_shift", reference="previous", apart=1)
    assert moved["a", 0] == pytest.approx(0.3)
    assert movement(evidence, seen(evidence), "mean_shift", reference="previous", apart=2).empty
