"""Figures of the loss along a line hold the bands that analysis returns."""

import numpy as np

from ics import analysis, plots
from tests.analysis.synthetic import line_frame, table_of
from tests.plots.drawing import COLORS, LINE, assert_draws, band_heights, line, texts


def test_landscape_draws_bands_beta_and_the_edge() -> None:
    figure, bands = plots.landscape(LINE), analysis.landscape_over_steps(LINE)
    loss, change, beta = figure.axes
    for net in ("standard", "bn"):
        rows = bands[bands["net"] == net]
        color = COLORS[net]
        for column in ("loss_start", "loss_min", "loss_max"):
            assert_draws(line(loss, f"{column}/{net}"), rows, column, net=net)
        for column in ("gradient_change_min", "gradient_change_max"):
            assert_draws(line(change, f"{column}/{net}"), rows, column, net=net)
        assert_draws(line(beta, f"beta/{net}"), rows, "beta_max", net=net)
        assert (rows["loss_min"].min(), rows["loss_max"].max()) in band_heights(loss, color)
        assert (rows["loss_min_low"].min(), rows["loss_max_high"].max()) in band_heights(loss, color)
    (edge,) = [drawn for drawn in beta.get_lines() if str(drawn.get_gid()).startswith("edge/")]
    assert set(edge.get_ydata()) == {20.0}
    assert edge.get_linestyle() == "--"
    assert "2 / learning rate" in texts(figure)
    assert "eta = 0.05 to 0.4" in figure.get_suptitle()


def test_landscape_draws_an_edge_per_net_where_learning_rates_differ() -> None:
    frame = table_of({("standard", 0): line_frame(rate=0.1), ("bn", 0): line_frame(rate=0.4)})
    beta = plots.landscape(frame).axes[2]
    assert {net: set(line(beta, f"edge/{net}").get_ydata()) for net in ("standard", "bn")} == {
        "standard": {20.0},
        "bn": {5.0},
    }


def test_landscape_leaves_a_gap_where_the_loss_was_no_number_and_says_so() -> None:
    frame = line_frame()
    frame.loc[(frame["step"] == 10) & (frame["eta"] > 0.3), ["loss", "gradient_change_l2"]] = np.nan
    figure = plots.landscape(frame)
    assert np.isnan(line(figure.axes[0], "loss_max/run").get_ydata()).tolist() == [False, True, False, False]
    assert "Gaps: at 1 point in" in texts(figure)
