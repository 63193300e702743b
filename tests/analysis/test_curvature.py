"""Curvature over steps against numpy by hand."""

import numpy as np
import pandas as pd
import pytest

from ics import analysis
from ics.errors import UsageError
from tests.analysis.synthetic_tables import (
    assert_gathered,
    curvature_frame,
    three,
)


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
