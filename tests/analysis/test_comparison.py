"""Comparison of two nets whose ratios are known, in both directions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ics
from ics import analysis
from ics.analysis.activations import entering
from ics.analysis.comparison import _compared
from ics.errors import UsageError
from ics.store import Runs
from tests.analysis.synthetic import activation_row, activations_frame, line_frame, make_run, shift_frame

STEPS = (0, 10, 20)


def runs_of(folder: Path, net: str, seeds: range = range(3), **how: object) -> Runs:
    return Runs([make_run(folder, net, seed, **{"steps": STEPS, **how}) for seed in seeds])


def by_measure(a: Runs, b: Runs) -> pd.DataFrame:
    return analysis.compare(a, b).set_index("measure")


@pytest.mark.parametrize(("of_a", "of_b"), [(8.0, 2.0), (2.0, 8.0)])
def test_ratios_go_the_way_the_numbers_do(tmp_path: Path, of_a: float, of_b: float) -> None:
    a = runs_of(tmp_path, "a", curvature=of_a, shift=of_a / 10, drift=of_a / 4)
    b = runs_of(tmp_path, "b", curvature=of_b, shift=of_b / 10, drift=of_b / 4)
    table = by_measure(a, b)
    np.testing.assert_allclose(table.loc["beta", ["a", "b", "ratio"]].astype(float), [of_a, of_b, of_b / of_a])
    assert table.loc["beta_over_edge", "a"] == pytest.approx(of_a / 20)
    assert table.loc["shift_over_floor", "ratio"] == pytest.approx(of_b / of_a)
    assert table.loc["mean_shift", "ratio"] == pytest.approx(of_b / of_a, rel=0.25)
    for measure in ("beta", "shift_over_floor", "mean_shift"):
        low, high = table.loc[measure, ["low", "high"]]
        assert (high < 1) == (of_b < of_a)
        assert (low > 1) == (of_b > of_a)
    assert (table["n"] == 3).all()
    assert table["paired"].all()


def test_measures_are_the_medians_they_claim_to_be(tmp_path: Path) -> None:
    values = analysis.run_measures(make_run(tmp_path, "a", 0, steps=STEPS)).set_index("measure")["value"]
    shift = shift_frame(steps=STEPS, seed=0).query("parameters == 'weight' and layer_index > 0")
    relative, cosine, length, floor = (
        shift.pivot(index="step", columns="layer", values=name).to_numpy()
        for name in ("shift_relative", "shift_cosine", "shift_l2", "floor_l2")
    )
    assert values["shift_relative"] == pytest.approx(np.median(np.median(relative, axis=1)))
    assert values["shift_cosine"] == pytest.approx(np.median(np.median(cosine, axis=1)))
    over_floor = length[1:] / floor[1:]  # no floor at the first step
    assert values["shift_over_floor"] == pytest.approx(np.median(np.median(over_floor, axis=1)))
    line = line_frame(steps=STEPS, seed=0).query("direction == 'gradient' and eta > 0").groupby("step")
    ranges = line["loss"].max() - line["loss"].min()
    assert values["loss_range"] == pytest.approx(np.median(ranges))
    assert values["gradient_change"] == pytest.approx(np.median(line["gradient_change_l2"].max()))
    activations = activations_frame(steps=STEPS, seed=0).query("site == 'preactivation'")
    first, last = (activations[activations["step"] == step] for step in (0, 20))
    shifts = [
        np.mean(np.abs(now - then) / np.sqrt(variance))
        for now, then, variance in zip(last["channel_mean"], first["channel_mean"], first["channel_m2"], strict=True)
    ]
    assert values["mean_shift"] == pytest.approx(np.median(shifts))
    assert values["ks_last"] == pytest.approx(np.median(analysis.normality(last)["ks"]))


def test_what_the_loop_logged_is_compared_too(tmp_path: Path) -> None:
    table = by_measure(runs_of(tmp_path, "a"), runs_of(tmp_path, "b", scale=2.0))
    assert table.loc["final_loss", "ratio"] == pytest.approx(2.0)
    assert table.loc["final_test_accuracy", "ratio"] == pytest.approx(1.0)


def test_one_seed_has_a_ratio_and_no_interval(tmp_path: Path) -> None:
    table = by_measure(runs_of(tmp_path, "a", range(1)), runs_of(tmp_path, "b", range(1), curvature=10.0))
    row = table.loc["beta"]
    assert row["ratio"] == pytest.approx(2.0)
    assert np.isnan(row["low"])
    assert np.isnan(row["high"])
    assert row["n"] == 1
    assert "no interval" in row["null_reason"]


def test_a_cosine_has_no_ratio(tmp_path: Path) -> None:
    row = by_measure(runs_of(tmp_path, "a"), runs_of(tmp_path, "b")).loc["shift_cosine"]
    assert np.isnan(row["ratio"])
    assert "may be negative" in row["null_reason"]
    assert -1 <= row["a"] <= 1


def test_what_was_not_recorded_is_null_with_the_reason(tmp_path: Path) -> None:
    table = by_measure(runs_of(tmp_path, "a", without=["gradient_shift"]), runs_of(tmp_path, "b"))
    row = table.loc["shift_relative"]
    assert np.isnan(row["a"])
    assert row["b"] > 0
    assert np.isnan(row["ratio"])
    assert row["null_reason"] == "a: not recorded in this run"


def test_nets_are_compared_at_step_sizes_that_both_were_probed_at(tmp_path: Path) -> None:
    a, b = runs_of(tmp_path, "a", rate=0.1), runs_of(tmp_path, "b", rate=0.2)
    table = by_measure(a, b)
    common = analysis.landscape_bands(b.table("gradient_line"), etas=(0.1, 0.4))
    per_run = common.groupby("run")["gradient_change_max"].median()
    assert table.loc["gradient_change", "b"] == pytest.approx(np.exp(np.log(per_run).mean()))
    assert table.loc["beta_over_edge", "ratio"] == pytest.approx(2.0)


def test_no_common_step_size_no_ratio_of_landscapes(tmp_path: Path) -> None:
    table = by_measure(runs_of(tmp_path, "a", rate=0.1), runs_of(tmp_path, "b", rate=10.0))
    for measure in ("beta", "gradient_change", "loss_range"):
        assert np.isnan(table.loc[measure, "ratio"])
        assert "no step size was probed in both" in table.loc[measure, "null_reason"]
    assert table.loc["shift_over_floor", "ratio"] == pytest.approx(1)


def test_a_net_whose_loss_overflows_does_not_pass_for_a_smooth_one(tmp_path: Path) -> None:
    frame = line_frame(steps=STEPS)
    far = (frame["step"] > 0) & (frame["eta"] > 0.2)
    frame.loc[far, ["loss", "gradient_change_l2"]] = np.nan
    table = by_measure(runs_of(tmp_path, "a"), runs_of(tmp_path, "b", range(2), frames={"gradient_line": frame}))
    assert table.loc["beta", "b"] == np.inf
    assert "overflowed" in table.loc["beta", "null_reason"]


def cells(values: list[float], seeds: list[float | None]) -> pd.DataFrame:
    return pd.DataFrame({"value": values, "seed": pd.array(seeds, dtype="Int64"), "null_reason": None})


def test_pairing_removes_what_seeds_have_in_common() -> None:
    level = [1.0, 10.0, 100.0, 1000.0]
    b = [1.9 * level[0], 2.0 * level[1], 2.1 * level[2], 2.0 * level[3]]
    paired = _compared(cells(level, [0, 1, 2, 3]), cells(b[::-1], [3, 2, 1, 0]), has_ratio=True, seed=0)
    assert paired["paired"]
    assert 1.85 < paired["low"] < paired["ratio"] < paired["high"] < 2.15
    apart = _compared(cells(level, [0, 1, 2, 3]), cells(b, [4, 5, 6, 7]), has_ratio=True, seed=0)
    assert not apart["paired"]
    assert apart["low"] < 0.1
    assert apart["high"] > 10
    assert apart["ratio"] == pytest.approx(paired["ratio"])


def test_interval_is_the_percentile_bootstrap_of_the_mean_logarithm() -> None:
    random = np.random.default_rng(1)
    a, b = random.lognormal(0, 0.5, 12), random.lognormal(1, 0.5, 12)
    row = _compared(cells(a.tolist(), list(range(12))), cells(b.tolist(), list(range(12))), has_ratio=True, seed=0)
    difference = np.log(b) - np.log(a)
    draws = random.choice(difference, size=(20_000, 12)).mean(axis=1)
    np.testing.assert_allclose(np.log([row["low"], row["high"]]), np.quantile(draws, [0.025, 0.975]), atol=0.02)
    assert row["ratio"] == pytest.approx(np.exp(difference.mean()))


def test_seeds_on_one_side_only_are_left_out_where_two_or_more_pair() -> None:
    row = _compared(cells([1.0, 1.0, 50.0], [0, 1, 2]), cells([2.0, 2.0], [0, 1]), has_ratio=True, seed=0)
    assert (row["ratio"], row["n"], row["paired"]) == (pytest.approx(2), 2, True)


def test_zeros_have_no_ratio() -> None:
    row = _compared(cells([0.0, 1.0], [0, 1]), cells([2.0, 2.0], [0, 1]), has_ratio=True, seed=0)
    assert np.isnan(row["ratio"])
    assert "0 or negative" in row["null_reason"]
    assert (row["a"], row["b"]) == (0.5, 2.0)


def test_what_enters_an_activation_function_is_the_normalised_value_where_there_is_one() -> None:
    x = np.ones((3, 1))
    frame = pd.DataFrame(
        [
            activation_row(x, layer="conv", site="preactivation"),
            activation_row(x, layer="conv", site="scaled"),
            activation_row(x, layer="conv", site="activation"),
            activation_row(x, layer="head", site="preactivation"),
        ]
    )
    assert entering(frame)[["layer", "site"]].to_numpy().tolist() == [["conv", "scaled"], ["head", "preactivation"]]


def test_no_runs_is_a_clear_error() -> None:
    with pytest.raises(UsageError, match="expected one opened run or more"):
        ics.analysis.compare([], [])
