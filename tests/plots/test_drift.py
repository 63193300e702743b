"""Figures of the drift hold the numbers that analysis returns."""

import numpy as np
import pytest

from ics import analysis, plots
from tests.plots.drawing import DRIFT, NETS, assert_draws, layers_of, line


@pytest.mark.parametrize("measure", ["wasserstein_1", "mean_shift"])
def test_drift_draws_each_reference_in_a_row_with_its_floor(measure):
    figure = plots.drift(DRIFT, site="scaled", measure=measure)
    values = analysis.drift_over_steps(DRIFT, site="scaled")
    values = values[values["measure"] == measure]
    grid = np.array(figure.axes).reshape(2, 4)
    for row, reference, kind in zip(grid, ("before_update", "step_0"), ("by this update", "since step 0"), strict=True):
        assert row[0].get_ylabel().startswith(kind)
        for axes, (index, layer) in zip(row, enumerate(layers_of(DRIFT)), strict=True):
            for net in NETS:
                rows = values[(values["net"] == net) & (values["layer_index"] == index)]
                rows = rows[rows["reference"] == reference]
                for quantity, style in (("drift", "-"), ("floor", "--")):
                    drawn = line(axes, f"{quantity}/{net}/{layer}/{reference}")
                    assert_draws(drawn, rows, quantity, net=net)
                    assert drawn.get_linestyle() == style
    assert [axes.get_title() for axes in grid[0]] == [f"{i}: {name}" for i, name in enumerate(layers_of(DRIFT))]
