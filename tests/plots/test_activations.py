"""Distributions of activations are drawn as the ridges that analysis returns."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from ics import analysis, plots
from ics.errors import SelectionError
from tests.analysis.synthetic import activation_row, activations_frame
from tests.plots.drawing import ACTIVATIONS, line, texts


def zero_bars(axes: Axes) -> list[np.ndarray]:
    """End points of the vertical bars of a panel."""
    collections = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
    return [segment for lines in collections for segment in lines.get_segments()]


def test_distributions_draws_ridges_and_zeros() -> None:
    figure = plots.distributions(ACTIVATIONS, site="activation")
    panels = np.array(figure.axes).reshape(2, 4)
    rows = ACTIVATIONS[ACTIVATIONS["site"] == "activation"]
    ridges = analysis.ridges(rows)
    for row, net in zip(panels, ("standard", "bn"), strict=True):
        for axes, layer in zip(row, ("features.0", "features.3", "features.6", "classifier"), strict=True):
            for base, step in enumerate((0, 10, 20, 30)):
                ridge = ridges[(ridges["net"] == net) & (ridges["layer"] == layer) & (ridges["step"] == step)]
                drawn = line(axes, f"{net}/{step}")
                np.testing.assert_array_equal(drawn.get_xdata(), ridge["x"])
                scale = np.diff(np.asarray(drawn.get_ydata())[[0, ridge["height"].argmax()]])
                np.testing.assert_allclose(drawn.get_ydata(), base + scale * ridge["height"], atol=1e-12)
                bar = [0.0, base], [0.0, base + scale.item() * ridge["zero_fraction"].iloc[0]]
                assert any(np.allclose(bar, segment) for segment in zero_bars(axes))
                assert f"{ridge['zero_fraction'].iloc[0]:.0%} zero" in [text.get_text() for text in axes.texts]
            assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "10", "20", "30"]
    assert "Grey bar" in texts(figure)


def test_distributions_states_what_lies_outside_and_which_call_it_is() -> None:
    values = np.random.default_rng(0).standard_cauchy((5000, 1))
    frame = pd.DataFrame([activation_row(values, step=step, call=call) for step in (0, 10) for call in (0, 1)])
    figure = plots.distributions(frame)
    assert [axes.get_title() for axes in figure.axes] == ["0: features.0", "0: features.0, call 1"]
    shares = analysis.densities(frame).iloc[0]
    assert figure.axes[0].texts[0].get_text() == f"{shares['below'] + shares['above']:.0%} outside"


def test_nets_of_different_depth_leave_no_empty_panel() -> None:
    shallow = activations_frame(layers=("a", "b")).assign(run="s", net="shallow", seed=0)
    figure = plots.distributions(pd.concat([ACTIVATIONS[ACTIVATIONS["net"] == "bn"], shallow]))
    assert len(figure.axes) == 4 + 2
    assert all(axes.get_lines() for axes in figure.axes)


def test_a_site_that_was_not_recorded_is_named_with_those_that_were() -> None:
    with pytest.raises(SelectionError, match="'scaled'; there are: activation, preactivation"):
        plots.distributions(ACTIVATIONS, site="scaled")
