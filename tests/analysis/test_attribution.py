"""Shares of the gradient shift against numpy by hand."""

import numpy as np
import pytest

from ics import analysis
from ics.errors import SelectionError
from tests.analysis.synthetic_tables import (
    SEEDS,
    assert_gathered,
    attribution_frame,
    three,
)


def test_shares_are_medians_over_steps_then_over_runs_in_the_order_of_execution():
    frame = three(attribution_frame)
    shares = analysis.attribution_shares(frame)
    for row in shares[shares["layer_index"] > 0].to_dict("records"):
        keys = {"layer": row["layer"], "source_layer": row["source_layer"], "parameters": "weight"}
        runs = frame[np.logical_and.reduce([frame[name] == value for name, value in keys.items()])]
        assert_gathered(row, "share", [np.median(runs[runs["seed"] == seed]["share"]) for seed in SEEDS])
        assert (row["num_runs"], row["num_steps"]) == (3, 4)
    last = shares[shares["layer"] == "classifier"]["source_layer"].tolist()
    assert last == ["features.0", "features.3", "features.6", "(remainder)"]
    first = shares[shares["layer_index"] == 0]
    assert first["share"].isna().all()
    assert first["num_steps"].tolist() == [0]


def test_shares_of_one_step_and_run_add_up_to_1():
    frame = attribution_frame(steps=(0, 10))
    shares = analysis.attribution_shares(frame, step=10, parameters="all")
    sums = shares[shares["layer_index"] > 0].groupby("layer")["share"].sum()
    np.testing.assert_allclose(sums, 1.0, rtol=1e-12)
    assert set(shares["parameters"]) == {"all"}
    with pytest.raises(SelectionError, match="step is named '5'"):
        analysis.attribution_shares(frame, step=5)
