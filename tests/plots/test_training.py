"""The curves of a training hold the numbers that analysis returns."""

import pytest

from ics import analysis, plots
from ics.errors import UsageError
from tests.plots.drawing import COLORS, STEPS, assert_draws, band_heights, line, texts


def test_training_curves_draws_the_frame() -> None:
    figure, curves = plots.training_curves(STEPS), analysis.training_curves(STEPS)
    for axes, measure in zip(figure.axes, ("loss", "test_accuracy"), strict=True):
        for net in ("standard", "bn"):
            rows = curves[(curves["measure"] == measure) & (curves["net"] == net)]
            assert_draws(line(axes, f"{measure}/{net}"), rows, "value", net=net)
            extent = (rows["value_low"].min(), rows["value_high"].max())
            assert extent in band_heights(axes, COLORS[net])
    assert "standard (n = 3)" in texts(figure)
    assert "median over runs" in texts(figure)


def test_a_loop_that_logged_nothing_is_told_what_to_type() -> None:
    with pytest.raises(UsageError, match=r"step\.log\(loss=loss\)"):
        plots.training_curves(STEPS[["step", "measured"]])
