"""Figures of curvature, drift, attribution and normalisation hold the numbers that analysis returns."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from ics import analysis, plots
from ics.errors import SelectionError, UsageError
from tests.analysis.synthetic import table_of
from tests.analysis.synthetic_tables import attribution_frame, curvature_frame, drift_frame, normalization_frame

matplotlib.use("Agg")
NETS = {"standard": 1.0, "bn": 0.3}
MANY = [f"features.{number}" for number in range(20)]


def table(make, name, **how):
    return table_of(
        {(net, seed): make(**{name: size}, seed=seed, **how) for net, size in NETS.items() for seed in (0, 1)}
    )


CURVATURE = table(curvature_frame, "curvature")
DRIFT = table(drift_frame, "drift")
ATTRIBUTION = table(attribution_frame, "alone")
NORMALIZATION = table(normalization_frame, "gamma")
DRAWN = {
    "curvature": (plots.curvature, CURVATURE),
    "drift": (plots.drift, DRIFT),
    "attribution": (plots.attribution, ATTRIBUTION),
    "normalization": (plots.normalization, NORMALIZATION),
}
COLORS = plots.net_colors(NETS)


def line(axes, gid) -> Line2D:
    (found,) = [line for line in axes.get_lines() if line.get_gid() == gid]
    return found


def assert_draws(drawn, rows, y, *, net):
    np.testing.assert_array_equal(drawn.get_xdata(), rows["step"])
    np.testing.assert_array_equal(drawn.get_ydata(), rows[y])
    assert to_hex(drawn.get_color()).upper() == COLORS[net].upper()


def note(figure):
    return figure.legends[0].get_title().get_text()


def shares_in(axes):
    (image,) = axes.get_images()
    return image.get_array().filled(np.nan)


def test_curvature_draws_both_measures_beside_the_edge():
    figure, values = plots.curvature(CURVATURE), analysis.curvature_over_steps(CURVATURE)
    for axes, name in zip(figure.axes, ("hessian_max_eigenvalue", "batch_sharpness"), strict=True):
        for net in NETS:
            assert_draws(line(axes, f"{name}/{net}"), values[values["net"] == net], name, net=net)
        (edge,) = [drawn for drawn in axes.get_lines() if str(drawn.get_gid()).startswith("edge/")]
        assert set(edge.get_ydata()) == {20.0}
        assert edge.get_linestyle() == "--"
    missing = CURVATURE.assign(hessian_max_eigenvalue=CURVATURE["hessian_max_eigenvalue"].where(CURVATURE["step"] > 0))
    assert "Gaps: at 2 points" in note(plots.curvature(missing))


@pytest.mark.parametrize("measure", ["wasserstein_1", "mean_shift"])
def test_drift_draws_each_reference_in_a_row_with_its_floor(measure):
    figure = plots.drift(DRIFT, site="scaled", measure=measure)
    values = analysis.drift_over_steps(DRIFT, site="scaled")
    values = values[values["measure"] == measure]
    grid = np.array(figure.axes).reshape(2, 4)
    for row, reference, kind in zip(grid, ("before_update", "step_0"), ("by this update", "since step 0"), strict=True):
        assert row[0].get_ylabel().startswith(kind)
        for axes, (index, layer) in zip(row, enumerate(analysis_layers()), strict=True):
            for net in NETS:
                rows = values[(values["net"] == net) & (values["layer_index"] == index)]
                rows = rows[rows["reference"] == reference]
                for quantity, style in (("drift", "-"), ("floor", "--")):
                    drawn = line(axes, f"{quantity}/{net}/{layer}/{reference}")
                    assert_draws(drawn, rows, quantity, net=net)
                    assert drawn.get_linestyle() == style
    assert [axes.get_title() for axes in grid[0]] == [f"{i}: {name}" for i, name in enumerate(analysis_layers())]


def analysis_layers():
    return DRIFT["layer"].drop_duplicates().tolist()


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


def test_normalization_draws_budget_gamma_and_beta():
    figure, values = plots.normalization(NORMALIZATION), analysis.smoothing_over_steps(NORMALIZATION)
    grid = np.array(figure.axes).reshape(4, 4)
    rows_of_quantities = (("change", "rescaling"), ("mean_share", "normalized_share"), ("gamma",), ("beta",))
    for row, quantities in zip(grid, rows_of_quantities, strict=True):
        for axes, (index, layer) in zip(row, enumerate(analysis_layers()), strict=True):
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


@pytest.mark.parametrize("name", ["drift", "normalization"])
def test_long_nets_are_thinned_and_say_so(name):
    draw, make = {"drift": (plots.drift, drift_frame), "normalization": (plots.normalization, normalization_frame)}[
        name
    ]
    figure = draw(make(layers=MANY, steps=(0, 10)), layers=3)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["0: features.0", "10: features.10", "19: features.19"]
    assert "3 of 20 layers" in note(figure)


def test_a_long_matrix_is_whole_but_not_every_row_is_labelled():
    axes = plots.attribution(attribution_frame(layers=MANY, steps=(0,))).axes[0]
    assert shares_in(axes).shape == (19, 20)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len(labels) < 15
    assert labels[0] == "0: features.0"
    assert labels[-1] == "(remainder)"
    assert not axes.texts


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_drawn_saved_and_leaves_its_frame(name, tmp_path):
    draw, frame = DRAWN[name]
    copy = frame.copy(deep=True)
    figure = draw(frame, colors={"standard": "#123456", "bn": "#654321"})
    pd.testing.assert_frame_equal(frame, copy)
    figure.savefig(tmp_path / "drawn.svg")
    assert figure.get_suptitle()
    lines = {to_hex(drawn.get_color()) for axes in figure.axes for drawn in axes.get_lines()}
    titles = {to_hex(axes.title.get_color()) for axes in figure.axes}
    assert lines | titles >= {"#123456", "#654321"}
    for axes in figure.axes:
        assert axes.has_data()


@pytest.mark.parametrize("name", DRAWN)
def test_mistakes(name):
    draw, frame = DRAWN[name]
    with pytest.raises(UsageError, match="got a frame without any"):
        draw(frame.iloc[:0])
    with pytest.raises(SelectionError, match=r"without (\w+, )*step"):
        draw(frame.drop(columns="step"))
    one = frame[frame["run"] == "bn-0"].drop(columns=["run", "net", "seed"])
    draw(one)
