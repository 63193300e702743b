"""What a normalisation does to the gradient, against numpy by hand."""

import numpy as np

from ics import analysis
from tests.analysis.synthetic_tables import (
    assert_gathered,
    normalization_frame,
    three,
)


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
