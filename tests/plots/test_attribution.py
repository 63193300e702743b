"""Matrices of the attribution hold the shares that analysis returns."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from ics import analysis, plots
from ics.errors import UsageError
from tests.analysis.synthetic_tables import attribution_frame
from tests.plots.drawing import ATTRIBUTION, COLORS, MANY


def shares_in(axes):
    (image,) = axes.get_images()
    return image.get_array().filled(np.nan)


def test_attribution_draws_the_shares_in_the_order_of_execution():
    figure, shares = plots.attribution(ATTRIBUTION), analysis.attribution_shares(ATTRIBUTION)
    layers = ATTRIBUTION["layer"].drop_duplicates().tolist()
    for axes, net in zip(figure.axes[:2], ("standard", "bn"), strict=True):
        drawn = shares_in(axes)
        assert drawn.shape == (3, 4)
        of_net = shares[shares["net"] == net].set_index(["layer", "source_layer"])["share"]
        for row, layer in enumerate(layers[1:]):
            for column, source in enumerate([*layers[:3], "(remainder)"]):
                known = of_net.get((layer, source), np.nan)
                np.testing.assert_array_equal(drawn[row, column], known)
        assert axes.get_title() == f"{net} (n = 2)"
        assert to_hex(axes.title.get_color()).upper() == COLORS[net].upper()
        assert [label.get_text() for label in axes.get_xticklabels()][-1] == "(remainder)"
        assert len(axes.texts) == np.isfinite(drawn).sum()
    assert "median over steps" in figure.get_suptitle()
    assert "only together" in figure.get_supxlabel()


def test_attribution_of_one_step():
    figure = plots.attribution(ATTRIBUTION, step=10, parameters="all")
    wanted = analysis.attribution_shares(ATTRIBUTION, step=10, parameters="all")
    wanted = wanted[(wanted["net"] == "standard") & wanted["share"].notna()]["share"]
    drawn = shares_in(figure.axes[0])
    np.testing.assert_array_equal(drawn[np.isfinite(drawn)], wanted)
    assert "step 10" in figure.get_suptitle()
    with pytest.raises(UsageError, match="expected a layer whose gradient shifted"):
        plots.attribution(ATTRIBUTION[ATTRIBUTION["layer_index"] == 0])


def test_a_long_matrix_is_whole_but_not_every_row_is_labelled():
    axes = plots.attribution(attribution_frame(layers=MANY, steps=(0,))).axes[0]
    assert shares_in(axes).shape == (19, 20)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len(labels) < 15
    assert labels[0] == "0: features.0"
    assert labels[-1] == "(remainder)"
    assert not axes.texts
