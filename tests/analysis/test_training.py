"""Training curves and costs."""

import numpy as np
import pandas as pd
import pytest

from ics import analysis
from ics.errors import SelectionError, UsageError
from tests.analysis.synthetic import steps_frame, table_of

FRAME = table_of({("bn", seed): steps_frame(seed=seed) for seed in range(3)})


def test_curves_are_medians_and_extremes_over_seeds() -> None:
    curve = analysis.training_curves(FRAME, measures=["loss"])
    losses = FRAME.pivot(index="seed", columns="step", values="loss").to_numpy()
    np.testing.assert_array_equal(curve["step"], np.arange(40))
    np.testing.assert_array_equal(curve["value"], np.median(losses, axis=0))
    np.testing.assert_array_equal(curve["value_low"], losses.min(axis=0))
    np.testing.assert_array_equal(curve["value_high"], losses.max(axis=0))
    assert set(curve["num_runs"]) == {3}
    assert set(curve["steps_averaged"]) == {1}


def test_what_the_loop_logged_is_found_and_gaps_are_not_filled() -> None:
    curve = analysis.training_curves(FRAME)
    assert curve["measure"].unique().tolist() == ["loss", "test_accuracy"]
    assert curve.loc[curve["measure"] == "test_accuracy", "step"].tolist() == [0, 20]


def test_long_curves_are_averaged_over_stretches_and_say_so() -> None:
    frame = pd.DataFrame({"step": np.arange(1000), "loss": np.arange(1000.0), "rare": np.nan})
    frame.loc[::250, "rare"] = 1.0
    curve = analysis.training_curves(frame, num_points=100)
    dense, rare = (curve[curve["measure"] == name] for name in ("loss", "rare"))
    np.testing.assert_allclose(dense["value"], np.arange(1000.0).reshape(100, 10).mean(axis=1))
    np.testing.assert_array_equal(dense["step"], 10 * np.arange(100) + 4)
    assert set(dense["steps_averaged"]) == {10}
    assert rare["step"].tolist() == [0, 250, 500, 750]
    assert set(rare["steps_averaged"]) == {1}


def test_an_infinite_loss_is_shown_and_a_null_one_leaves_a_gap() -> None:
    curve = analysis.training_curves(pd.DataFrame({"step": [0, 1, 2], "loss": [1.0, np.nan, np.inf]}))
    assert curve["step"].tolist() == [0, 2]
    assert curve["value"].tolist() == [1.0, np.inf]


def test_nothing_logged_gives_no_curve() -> None:
    assert analysis.training_curves(pd.DataFrame({"step": [0], "loss": [np.nan]})).empty


def test_costs_tell_plain_from_measured_steps() -> None:
    costs = analysis.costs(FRAME)
    assert len(costs) == 3
    row = costs.iloc[0]
    assert (row["num_steps"], row["num_measured"]) == (40, 4)
    assert (row["plain_step"], row["measured_step"], row["evaluating"]) == pytest.approx((0.01, 0.03, 0.1))
    assert row["total"] == pytest.approx(36 * 0.01 + 4 * (0.03 + 0.1))
    assert row["times_plain"] == pytest.approx(row["total"] / 0.4)


def test_costs_without_a_plain_step_or_a_duration_are_null() -> None:
    measured = FRAME.assign(measured=True)
    assert analysis.costs(measured)["times_plain"].isna().all()
    unknown = FRAME.assign(duration=FRAME["duration"].where(FRAME["step"] != 5))
    assert analysis.costs(unknown)["total"].isna().all()


def test_mistakes() -> None:
    with pytest.raises(SelectionError, match=r"'test_acuracy'; did you mean 'test_accuracy'"):
        analysis.training_curves(FRAME, measures=["test_acuracy"])
    with pytest.raises(SelectionError, match="without measured"):
        analysis.costs(FRAME.drop(columns="measured"))
    with pytest.raises(UsageError, match="without any"):
        analysis.training_curves(FRAME.iloc[:0])
