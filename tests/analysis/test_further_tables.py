"""Curvature, same-batch drift, attribution and the smoothing budget against numpy by hand."""

import numpy as np
import pandas as pd
import pytest

from ics import analysis
from ics.errors import SelectionError, UsageError
from tests.analysis.synthetic import table_of
from tests.analysis.synthetic_tables import attribution_frame, curvature_frame, drift_frame, normalization_frame

SEEDS = range(3)


def three(make, **how):
    """The frames of three seeds of one net below each other."""
    return table_of({("bn", seed): make(seed=seed, **how) for seed in SEEDS})


def assert_gathered(row, name, values):
    """A gathered row holds the median and the ends of the runs' values."""
    wanted = (np.median(values), np.min(values), np.max(values))
    np.testing.assert_allclose((row[name], row[f"{name}_low"], row[f"{name}_high"]), wanted, rtol=1e-12)


def test_curvature_is_the_median_over_seeds_beside_the_edge():
    frame = three(curvature_frame)
    gathered = analysis.curvature_over_steps(frame)
    assert gathered["step"].tolist() == [0, 10, 20, 30]
    for _, row in gathered.iterrows():
        of_step = frame[frame["step"] == row["step"]]
        for name in ("hessian_max_eigenvalue", "batch_sharpness"):
            assert_gathered(row, name, of_step[name].to_numpy())
        assert (row["two_over_lr"], row["num_runs"]) == (20.0, 3)


def test_curvature_of_several_learning_rates_has_no_one_edge():
    mixed = pd.concat([three(curvature_frame), curvature_frame(rate=0.4).assign(run="x", net="bn", seed=9)])
    with pytest.raises(UsageError, match=r"share a learning rate, got 0\.1 and 0\.4 at step 0"):
        analysis.curvature_over_steps(mixed)


def test_an_eigenvalue_that_no_run_has_stays_null():
    frame = three(curvature_frame)
    frame.loc[frame["step"] == 10, "hessian_max_eigenvalue"] = np.nan
    gathered = analysis.curvature_over_steps(frame)
    assert gathered["hessian_max_eigenvalue"].isna().tolist() == [False, True, False, False]


def test_drift_is_gathered_by_place_and_reference():
    frame = three(drift_frame)
    gathered = analysis.drift_over_steps(frame, site="scaled")
    assert len(gathered) == 4 * 4 * (4 + 3)  # layers, measures, steps of the two references
    for row in gathered.to_dict("records"):
        keys = {name: row[name] for name in ("step", "layer", "reference")} | {"site": "scaled"}
        runs = frame[np.logical_and.reduce([frame[name] == value for name, value in keys.items()])]
        assert_gathered(row, "drift", runs[row["measure"]].to_numpy())
        assert_gathered(row, "floor", runs[f"floor_{row['measure']}"].to_numpy())
    with pytest.raises(SelectionError, match="'activation'; did you mean 'preactivation'"):
        analysis.drift_over_steps(frame, site="activation")


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


def test_the_smoothing_budget_splits_the_change_into_rescaling_and_projections():
    frame = normalization_frame(gamma=2.0)
    budget = analysis.smoothing_budget(frame)
    np.testing.assert_allclose(budget["change"], budget["rescaling"] * budget["projection"], rtol=1e-12)
    left = 1 - budget["mean_share"] - budget["normalized_share"]
    np.testing.assert_allclose(budget["projection"], left, rtol=1e-10)  # the theorem
    row, stored = budget.iloc[5], frame.iloc[5]
    assert row["change"] == stored["input_gradient_squared"] / stored["output_gradient_squared"]
    assert row["rescaling"] == stored["rescaled_gradient_squared"] / stored["output_gradient_squared"]
    for name, column in (("gamma", "channel_weight"), ("beta", "channel_bias")):
        wanted = np.percentile(stored[column], [10, 50, 90])
        np.testing.assert_allclose(row[[f"{name}_p10", name, f"{name}_p90"]].to_numpy(float), wanted, rtol=1e-12)


def test_the_budget_is_gathered_over_seeds():
    frame = three(normalization_frame)
    budget, gathered = analysis.smoothing_budget(frame), analysis.smoothing_over_steps(frame)
    assert len(gathered) == 4 * 4
    for row in gathered.to_dict("records"):
        runs = budget[(budget["layer"] == row["layer"]) & (budget["step"] == row["step"])]
        for name in ("change", "mean_share", "gamma", "beta_p90"):
            assert_gathered(row, name, runs[name].to_numpy())


def test_what_the_theorem_does_not_cover_is_null():
    frame = normalization_frame(steps=(0,)).astype({"channel_weight": object})
    frame[["rescaled_gradient_squared", "mean_term", "normalized_term"]] = np.nan
    frame["channel_weight"] = None
    frame.loc[0, "output_gradient_squared"] = 0.0
    budget = analysis.smoothing_budget(frame)
    assert budget[["rescaling", "projection", "mean_share", "normalized_share", "gamma"]].isna().all().all()
    assert budget["change"].isna().tolist() == [True, False, False, False]
    assert budget["beta"].notna().all()
