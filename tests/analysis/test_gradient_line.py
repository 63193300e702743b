"""Landscape bands on a quadratic, whose beta is its curvature at every step size."""

import numpy as np
import pandas as pd
import pytest

from ics import analysis
from ics.analysis.gradient_line import common_etas
from ics.errors import SelectionError, UsageError
from tests.analysis.synthetic import line_frame, table_of

FRAME = table_of(
    {
        (net, seed): line_frame(curvature=curvature, seed=seed)
        for net, curvature in (("standard", 8.0), ("bn", 3.0))
        for seed in range(3)
    }
)


def test_beta_of_a_quadratic_is_its_curvature_and_2_over_lr_its_reference() -> None:
    bands = analysis.landscape_bands(FRAME)
    np.testing.assert_allclose(bands["beta_max"], np.where(bands["net"] == "bn", 3.0, 8.0))
    np.testing.assert_allclose(bands["two_over_lr"], 20.0)
    assert len(bands) == 6 * 4
    assert bands["null_reason"].isna().all()


def test_bands_are_the_extremes_over_eta_without_the_point_itself() -> None:
    bands = analysis.landscape_bands(FRAME)
    for row in bands.itertuples():
        line = FRAME[(FRAME["run"] == row.run) & (FRAME["step"] == row.step) & (FRAME["direction"] == "gradient")]
        probes = line[line["eta"] > 0]
        assert (row.loss_min, row.loss_max) == (probes["loss"].min(), probes["loss"].max())
        assert row.loss_start == line.loc[line["eta"] == 0, "loss"].item()
        changes = probes["gradient_change_l2"]
        assert (row.gradient_change_min, row.gradient_change_max) == (changes.min(), changes.max())
        assert (row.eta_min, row.eta_max, row.num_etas) == (probes["eta"].min(), probes["eta"].max(), 8)


def test_only_the_step_sizes_asked_for_count() -> None:
    all_of_them, some = analysis.landscape_bands(FRAME), analysis.landscape_bands(FRAME, etas=(0.05, 0.1))
    assert some["eta_max"].max() <= 0.1
    assert (some["loss_max"] <= all_of_them["loss_max"]).all()
    assert (some["gradient_change_max"] < all_of_them["gradient_change_max"]).all()
    with pytest.raises(UsageError, match="within 7 to 9, got none"):
        analysis.landscape_bands(FRAME, etas=(7, 9))


def test_a_loss_that_is_not_a_number_has_no_known_maximum() -> None:
    frame = line_frame(steps=(0,))
    largest = (frame["direction"] == "gradient") & (frame["eta"] == frame["eta"].max())
    frame.loc[largest, ["loss", "gradient_change_l2"]] = np.nan
    row = analysis.landscape_bands(frame).iloc[0]
    assert row[["loss_max", "gradient_change_max", "beta_max"]].isna().all()
    assert np.isfinite(row["loss_min"])
    assert row["null_reason"].startswith("loss null or not a number at 1 probed points")


def test_an_infinite_loss_is_an_infinite_maximum() -> None:
    frame = line_frame(steps=(0,))
    frame.loc[frame["eta"] == frame["eta"].max(), "loss"] = np.inf
    assert analysis.landscape_bands(frame)["loss_max"].tolist() == [np.inf]


def test_random_draws_count_together() -> None:
    frame = line_frame(steps=(0,)).query("direction == 'gradient'").assign(direction="random")
    two = pd.concat([frame, frame.assign(draw=1, loss=frame["loss"] + 100)])
    row = analysis.landscape_bands(two, direction="random").iloc[0]
    probes = frame[frame["eta"] > 0]
    assert (row["loss_min"], row["loss_max"]) == (probes["loss"].min(), probes["loss"].max() + 100)


def test_no_learning_rate_no_reference() -> None:
    row = analysis.landscape_bands(line_frame(steps=(0,)).assign(learning_rate=np.nan)).iloc[0]
    assert np.isnan(row["two_over_lr"])
    assert row["beta_max"] == pytest.approx(5)
    assert "2/lr is not defined" in row["null_reason"]


def test_over_steps_gathers_seeds() -> None:
    bands, gathered = analysis.landscape_bands(FRAME), analysis.landscape_over_steps(FRAME)
    rows = gathered[gathered["net"] == "standard"]
    per_seed = bands[bands["net"] == "standard"].pivot(index="seed", columns="step", values="loss_max").to_numpy()
    np.testing.assert_array_equal(rows["step"], [0, 10, 20, 30])
    np.testing.assert_array_equal(rows["loss_max"], np.median(per_seed, axis=0))
    np.testing.assert_array_equal(rows["loss_max_low"], per_seed.min(axis=0))
    np.testing.assert_array_equal(rows["loss_max_high"], per_seed.max(axis=0))


def test_runs_at_several_learning_rates_are_not_one_landscape() -> None:
    mixed = table_of({("bn", 0): line_frame(rate=0.1), ("bn", 1): line_frame(rate=0.5)})
    with pytest.raises(UsageError, match=r"net 'bn' to share a learning rate, got 0.1 and 0.5 at step 0"):
        analysis.landscape_over_steps(mixed)
    apart = analysis.landscape_over_steps(mixed.assign(net=mixed["run"]))
    assert set(apart["two_over_lr"]) == {20.0, 4.0}


def test_common_step_sizes() -> None:
    frame = table_of({("a", 0): line_frame(rate=0.1), ("b", 0): line_frame(rate=0.2)})
    low, high = common_etas(frame) or (0, 0)
    assert (low, high) == pytest.approx((0.1, 0.4))
    assert common_etas(table_of({("a", 0): line_frame(rate=0.1), ("b", 0): line_frame(rate=10.0)})) is None


def test_mistakes() -> None:
    with pytest.raises(SelectionError, match="'random'; there are: gradient, update"):
        analysis.landscape_bands(FRAME, direction="random")
    with pytest.raises(SelectionError, match="without distance"):
        analysis.landscape_bands(FRAME.drop(columns="distance"))
    with pytest.raises(UsageError, match="eta > 0, got none"):
        analysis.landscape_bands(FRAME[FRAME["eta"] == 0])
    with pytest.raises(UsageError, match="without any"):
        analysis.landscape_bands(FRAME.iloc[:0])


def test_a_layer_moved_alone_enters_only_where_it_is_asked_for() -> None:
    whole, alone = line_frame(curvature=5.0), line_frame(curvature=2.0).assign(layer="features.0")
    alone.loc[alone["eta"] > 0.3, "eta"] = 7.0
    both = pd.concat([alone, whole], ignore_index=True)
    pd.testing.assert_frame_equal(analysis.landscape_bands(both), analysis.landscape_bands(whole))
    found = analysis.landscape_bands(both, layer="features.0")
    np.testing.assert_allclose(found["beta_max"], 2.0)
    assert set(found["layer"]) == {"features.0"}
    np.testing.assert_allclose(analysis.landscape_over_steps(both, layer="features.0")["beta_max"], 2.0)
    assert common_etas(both) == common_etas(whole)
    with pytest.raises(SelectionError, match=r"'features\.1'; .*features\.0"):
        analysis.landscape_bands(both, layer="features.1")


def test_rows_that_name_no_layer_are_of_the_whole_net() -> None:
    whole = line_frame()
    pd.testing.assert_frame_equal(analysis.landscape_bands(whole.assign(layer=None)), analysis.landscape_bands(whole))
