"""Figures of the gradient shift hold the numbers that analysis returns."""

import numpy as np
import pandas as pd

from ics import analysis, plots
from tests.analysis.synthetic import shift_frame
from tests.plots.drawing import SHIFT, assert_draws, line, texts


def test_gradient_shift_draws_shift_and_floor_of_each_layer() -> None:
    figure, shifts = plots.gradient_shift(SHIFT), analysis.shift_over_steps(SHIFT)
    panels = np.array(figure.axes).reshape(3, 3)
    for row, measure in zip(panels, ("l2", "cosine", "relative"), strict=True):
        for axes, index in zip(row, (1, 2, 3), strict=True):
            for net in ("standard", "bn"):
                rows = shifts[
                    (shifts["measure"] == measure) & (shifts["layer_index"] == index) & (shifts["net"] == net)
                ]
                assert_draws(line(axes, f"shift/{net}"), rows, "shift", net=net)
                assert_draws(line(axes, f"floor/{net}"), rows, "floor", net=net)
                assert line(axes, f"floor/{net}").get_linestyle() == "--"
    assert panels[0, 0].get_title() == "1: features.3"
    assert "exactly 0" in texts(figure)
    assert "noise floor" in texts(figure)


def test_gradient_shift_thins_long_nets_and_says_so() -> None:
    layers = [f"layer{number}" for number in range(20)]
    figure = plots.gradient_shift(shift_frame(layers=layers), layers=3)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["1: layer1", "10: layer10", "19: layer19"]
    assert "3 of 20 layers" in texts(figure)


def test_gradient_shift_shows_layers_by_their_place_where_names_differ() -> None:
    other = shift_frame(layers=("a", "b", "c", "d")).assign(run="x", net="x", seed=0)
    figure = plots.gradient_shift(pd.concat([SHIFT, other]))
    assert figure.axes[0].get_title() == "1: features.3\nb"
    assert {drawn.get_gid() for drawn in figure.axes[0].get_lines()} >= {"shift/x", "shift/bn", "shift/standard"}


def test_gradient_shift_by_layer_draws_the_frame() -> None:
    figure, shifts = plots.gradient_shift_by_layer(SHIFT), analysis.shift_by_layer(SHIFT)
    for axes, measure in zip(figure.axes, ("l2", "cosine", "relative"), strict=True):
        for net in ("standard", "bn"):
            rows = shifts[(shifts["measure"] == measure) & (shifts["net"] == net) & (shifts["layer_index"] > 0)]
            assert_draws(line(axes, f"shift/{net}"), rows, "shift", net=net, x="layer_index")
            assert_draws(line(axes, f"floor/{net}"), rows, "floor", net=net, x="layer_index")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        "features.3",
        "features.6",
        "classifier",
    ]
