"""Figures of what a normalisation does to the gradient hold the numbers that analysis returns."""

import numpy as np

from ics import analysis, plots
from tests.plots.drawing import NETS, NORMALIZATION, assert_draws, layers_of, line, note


def test_normalization_draws_budget_gamma_and_beta():
    figure, values = plots.normalization(NORMALIZATION), analysis.smoothing_over_steps(NORMALIZATION)
    grid = np.array(figure.axes).reshape(4, 4)
    rows_of_quantities = (("change", "rescaling"), ("mean_share", "normalized_share"), ("gamma",), ("beta",))
    for row, quantities in zip(grid, rows_of_quantities, strict=True):
        for axes, (index, layer) in zip(row, enumerate(layers_of(NORMALIZATION)), strict=True):
            for net in NETS:
                rows = values[(values["net"] == net) & (values["layer_index"] == index)]
                for quantity, style in zip(quantities, ("-", "--"), strict=False):
                    drawn = line(axes, f"{quantity}/{net}/{layer}")
                    assert_draws(drawn, rows, quantity, net=net)
                    assert drawn.get_linestyle() == style
                if quantities == ("gamma",):
                    extents = [np.concatenate([p.vertices[:, 1] for p in c.get_paths()]) for c in axes.collections]
                    ends = [(extent.min(), extent.max()) for extent in extents]
                    assert (rows["gamma_p10"].min(), rows["gamma_p90"].max()) in ends
    assert "10th to the 90th percentile" in note(figure)


def test_normalization_without_batch_statistics_has_no_row_of_shares():
    terms = ["rescaled_gradient_squared", "mean_term", "normalized_term"]
    figure = plots.normalization(NORMALIZATION.assign(**dict.fromkeys(terms, np.nan)))
    assert len(figure.axes) == 3 * 4
