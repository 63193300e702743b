"""Shift over steps and by layer, against medians taken here."""

import numpy as np
import pandas as pd
import pytest

from ics import analysis
from ics.errors import SelectionError, UsageError
from tests.analysis.synthetic import LAYERS, shift_frame, table_of

FRAME = table_of(
    {
        (net, seed): shift_frame(shift=shift, seed=seed + (10 if net == "bn" else 0))
        for net, shift in (("standard", 0.8), ("bn", 0.4))
        for seed in range(3)
    }
)


def values(net: str, layer: str, column: str, parameters: str = "weight") -> np.ndarray:
    """One row per seed, one column per step."""
    rows = FRAME[(FRAME["net"] == net) & (FRAME["layer"] == layer) & (FRAME["parameters"] == parameters)]
    return rows.pivot_table(index="seed", columns="step", values=column, dropna=False).to_numpy()


@pytest.mark.parametrize("parameters", ["weight", "all"])
@pytest.mark.parametrize("measure", ["l2", "cosine", "relative"])
def test_over_steps_gathers_the_seeds_of_a_net(parameters: str, measure: str) -> None:
    shifts = analysis.shift_over_steps(FRAME, parameters=parameters)
    rows = shifts[(shifts["net"] == "bn") & (shifts["layer"] == "features.3") & (shifts["measure"] == measure)]
    truth = values("bn", "features.3", f"shift_{measure}", parameters)
    np.testing.assert_array_equal(rows["step"], [0, 10, 20, 30])
    np.testing.assert_array_equal(rows["shift"], np.median(truth, axis=0))
    np.testing.assert_array_equal(rows["shift_low"], truth.min(axis=0))
    np.testing.assert_array_equal(rows["shift_high"], truth.max(axis=0))
    assert set(rows["num_runs"]) == {3}


def test_a_floor_that_was_not_measured_stays_null() -> None:
    shifts = analysis.shift_over_steps(FRAME)
    floor = shifts[(shifts["layer"] == "features.3") & (shifts["measure"] == "relative")].groupby("step")["floor"]
    assert floor.count().tolist() == [0, 2, 2, 2]


def test_by_layer_is_the_median_over_steps_then_over_seeds() -> None:
    shifts = analysis.shift_by_layer(FRAME)
    rows = shifts[(shifts["net"] == "standard") & (shifts["measure"] == "l2")]
    assert rows["layer"].tolist() == list(LAYERS)
    for layer, row in zip(LAYERS, rows.itertuples(), strict=True):
        per_seed = np.median(values("standard", layer, "shift_l2"), axis=1)
        floors = np.nanmedian(values("standard", layer, "floor_l2"), axis=1)
        assert (row.shift, row.shift_low, row.shift_high) == (np.median(per_seed), per_seed.min(), per_seed.max())
        assert (row.floor, row.floor_low, row.floor_high) == (np.median(floors), floors.min(), floors.max())
        assert (row.num_runs, row.num_steps) == (3, 4)


def test_the_first_layer_has_shift_0_and_takes_no_part_against_the_floor() -> None:
    shifts = analysis.shift_by_layer(FRAME)
    assert shifts.loc[(shifts["layer_index"] == 0) & (shifts["measure"] == "l2"), "shift"].tolist() == [0, 0]
    ratios = analysis.shift_against_floor(FRAME)
    assert set(ratios["layer_index"]) == {1, 2, 3}
    expected = values("bn", "classifier", "shift_l2") / values("bn", "classifier", "floor_l2")
    rows = ratios[(ratios["net"] == "bn") & (ratios["layer"] == "classifier")]
    np.testing.assert_array_equal(rows.pivot(index="seed", columns="step", values="shift_over_floor"), expected)


def test_a_floor_of_0_gives_no_ratio() -> None:
    ratios = analysis.shift_against_floor(FRAME.assign(floor_l2=0.0))
    assert ratios["shift_over_floor"].isna().all()


def test_one_run_without_identity_is_enough() -> None:
    shifts = analysis.shift_over_steps(shift_frame())
    assert set(shifts["net"]) == {"run"}
    assert (shifts["shift_low"] == shifts["shift_high"]).all()
    assert set(shifts["num_runs"]) == {1}


def test_mistakes() -> None:
    with pytest.raises(SelectionError, match="'weights'; did you mean 'weight'"):
        analysis.shift_over_steps(FRAME, parameters="weights")
    with pytest.raises(SelectionError, match="without floor_cosine"):
        analysis.shift_by_layer(FRAME.drop(columns="floor_cosine"))
    with pytest.raises(UsageError, match="gradient_shift"):
        analysis.shift_by_layer(pd.DataFrame(columns=FRAME.columns))
