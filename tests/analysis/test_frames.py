"""Checking of frames, and gathering over seeds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ics.analysis import frames
from ics.errors import SelectionError, UsageError


def test_a_frame_of_one_run_gets_its_identity() -> None:
    rows = frames.checked(pd.DataFrame({"step": [0, 1]}), "steps", ["step"])
    assert rows.columns.tolist() == ["run", "net", "seed", "step"]
    assert set(rows["run"]) == set(rows["net"]) == {"run"}
    assert rows["seed"].isna().all()


def test_a_null_net_is_the_run_and_the_input_stays_as_it_was() -> None:
    frame = pd.DataFrame({"step": [0, 0], "run": ["a", "b"], "net": [None, "bn"], "seed": [1, None]}, index=[7, 9])
    rows = frames.checked(frame, "steps", ["step"])
    assert rows["net"].tolist() == ["a", "bn"]
    assert rows.index.tolist() == [0, 1]
    assert frame["net"].isna().tolist() == [True, False]


def test_mistakes_say_what_to_type() -> None:
    frame = pd.DataFrame({"step": [0]})
    with pytest.raises(SelectionError, match=r"without loss, duration; type runs\.table\('steps'\)"):
        frames.checked(frame, "steps", ["step", "loss", "duration"])
    with pytest.raises(SelectionError, match=r"without step; .* frame\.assign\(step=0\)"):
        frames.checked(frame.drop(columns="step").assign(loss=1.0), "steps", ["step", "loss"])
    with pytest.raises(UsageError, match="got a frame without any"):
        frames.checked(frame.iloc[:0], "steps", ["step"])
    with pytest.raises(UsageError, match="got NoneType"):
        frames.checked(None, "steps", ["step"])  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match="'weigth'; did you mean 'weight'"):
        frames.chosen(pd.DataFrame({"parameters": ["weight", "all"]}), "parameters", "weigth")


def test_over_seeds_is_median_and_extremes_per_group() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"run": list("abcabc"), "net": "n", "step": [0, 0, 0, 1, 1, 1], "value": random.standard_normal(6)}
    )
    gathered = frames.over_seeds(frame, by=("net", "step"), values=("value",))
    by_step = frame["value"].to_numpy().reshape(2, 3)
    np.testing.assert_array_equal(gathered["value"], np.median(by_step, axis=1))
    np.testing.assert_array_equal(gathered["value_low"], by_step.min(axis=1))
    np.testing.assert_array_equal(gathered["value_high"], by_step.max(axis=1))
    assert gathered["num_runs"].tolist() == [3, 3]


def test_null_takes_no_part_infinity_does_and_all_null_stays_null() -> None:
    frame = pd.DataFrame(
        {"run": ["a", "b", "a", "b"], "step": [0, 0, 1, 1], "value": [1.0, np.nan, np.nan, np.nan], "other": np.inf}
    )
    gathered = frames.over_seeds(frame, by=("step",), values=("value", "other"))
    assert gathered["value"][0] == gathered["value_low"][0] == gathered["value_high"][0] == 1
    assert gathered.loc[1, ["value", "value_low", "value_high"]].isna().all()
    assert np.isinf(gathered[["other", "other_low", "other_high"]].to_numpy(float)).all()


@given(st.integers(1, 200), st.integers(2, 30))
def test_spread_out_takes_the_ends_and_no_more_than_the_limit(num_items: int, limit: int) -> None:
    chosen = frames.spread_out(num_items, limit)
    assert chosen[0] == 0
    assert chosen[-1] == num_items - 1
    assert len(chosen) == min(num_items, limit)
    gaps = np.diff(chosen)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1
