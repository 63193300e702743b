"""Figures are tested by what they draw: lines hold the numbers that analysis returns, in the colour of their net."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ics import analysis, plots
from ics.errors import SelectionError, UsageError
from tests.analysis.synthetic import activation_row, activations_frame, line_frame, shift_frame, steps_frame, table_of

matplotlib.use("Agg")
NETS = (("standard", 0.8, 8.0), ("bn", 0.4, 3.0))
SEEDS = range(3)
STEPS = table_of({(net, seed): steps_frame(seed=seed, scale=shift) for net, shift, _ in NETS for seed in SEEDS})
SHIFT = table_of({(net, seed): shift_frame(shift=shift, seed=seed) for net, shift, _ in NETS for seed in SEEDS})
LINE = table_of({(net, seed): line_frame(curvature=beta, seed=seed) for net, _, beta in NETS for seed in SEEDS})
ACTIVATIONS = table_of(
    {(net, seed): activations_frame(drift=shift, seed=seed) for net, shift, _ in NETS for seed in SEEDS}
)
DRAWN = {
    "training_curves": (plots.training_curves, STEPS),
    "gradient_shift": (plots.gradient_shift, SHIFT),
    "gradient_shift_by_layer": (plots.gradient_shift_by_layer, SHIFT),
    "landscape": (plots.landscape, LINE),
    "distributions": (plots.distributions, ACTIVATIONS),
}


def line(axes: Axes, gid: str) -> Line2D:
    (found,) = [line for line in axes.get_lines() if line.get_gid() == gid]
    return found


def assert_draws(drawn: Line2D, rows: pd.DataFrame, x: str, y: str, *, net: str) -> None:
    np.testing.assert_array_equal(np.asarray(drawn.get_xdata(), float), rows[x].to_numpy(float))
    np.testing.assert_array_equal(np.asarray(drawn.get_ydata(), float), rows[y].to_numpy(float))
    assert to_hex(drawn.get_color()).upper() == plots.net_colors(["standard", "bn"])[net].upper()


def band_heights(axes: Axes, color: str) -> list[tuple[float, float]]:
    """Lowest and highest value of each band of a colour."""
    bands = [band for band in axes.collections if to_hex(band.get_facecolor()[0]).upper() == color.upper()]
    extents = [np.concatenate([path.vertices[:, 1] for path in band.get_paths()]) for band in bands]
    return [(extent.min(), extent.max()) for extent in extents]


def zero_bars(axes: Axes) -> list[np.ndarray]:
    """End points of the vertical bars of a panel."""
    collections = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
    return [segment for lines in collections for segment in lines.get_segments()]


def texts(figure: Figure) -> str:
    legend = figure.legends[0]
    return "\n".join([legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())])


def test_training_curves_draws_the_frame() -> None:
    figure, curves = plots.training_curves(STEPS), analysis.training_curves(STEPS)
    for axes, measure in zip(figure.axes, ("loss", "test_accuracy"), strict=True):
        for net in ("standard", "bn"):
            rows = curves[(curves["measure"] == measure) & (curves["net"] == net)]
            assert_draws(line(axes, f"{measure}/{net}"), rows, "step", "value", net=net)
            extent = (rows["value_low"].min(), rows["value_high"].max())
            assert extent in band_heights(axes, plots.net_colors(["standard", "bn"])[net])
    assert "standard (n = 3)" in texts(figure)
    assert "median over runs" in texts(figure)


def test_gradient_shift_draws_shift_and_floor_of_each_layer() -> None:
    figure, shifts = plots.gradient_shift(SHIFT), analysis.shift_over_steps(SHIFT)
    panels = np.array(figure.axes).reshape(3, 3)
    for row, measure in zip(panels, ("l2", "cosine", "relative"), strict=True):
        for axes, index in zip(row, (1, 2, 3), strict=True):
            for net in ("standard", "bn"):
                rows = shifts[
                    (shifts["measure"] == measure) & (shifts["layer_index"] == index) & (shifts["net"] == net)
                ]
                assert_draws(line(axes, f"shift/{net}"), rows, "step", "shift", net=net)
                assert_draws(line(axes, f"floor/{net}"), rows, "step", "floor", net=net)
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
            assert_draws(line(axes, f"shift/{net}"), rows, "layer_index", "shift", net=net)
            assert_draws(line(axes, f"floor/{net}"), rows, "layer_index", "floor", net=net)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        "features.3",
        "features.6",
        "classifier",
    ]


def test_landscape_draws_bands_beta_and_the_edge() -> None:
    figure, bands = plots.landscape(LINE), analysis.landscape_over_steps(LINE)
    loss, change, beta = figure.axes
    for net in ("standard", "bn"):
        rows = bands[bands["net"] == net]
        color = plots.net_colors(["standard", "bn"])[net]
        for column in ("loss_start", "loss_min", "loss_max"):
            assert_draws(line(loss, f"{column}/{net}"), rows, "step", column, net=net)
        for column in ("gradient_change_min", "gradient_change_max"):
            assert_draws(line(change, f"{column}/{net}"), rows, "step", column, net=net)
        assert_draws(line(beta, f"beta/{net}"), rows, "step", "beta_max", net=net)
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


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_drawn_saved_and_owned_by_nobody(name: str, tmp_path: object) -> None:
    import matplotlib.pyplot as plt

    draw, frame = DRAWN[name]
    mine = plt.figure()
    before, copy = plt.get_fignums(), frame.copy(deep=True)
    figure = draw(frame)
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == before
    plt.close(mine)
    pd.testing.assert_frame_equal(frame, copy)
    figure.savefig(f"{tmp_path}/{name}.png")
    figure.savefig(f"{tmp_path}/{name}.svg")
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows
    assert figure.get_suptitle()
    for axes in figure.axes:
        assert axes.has_data()


@pytest.mark.parametrize("name", DRAWN)
def test_one_run_without_identity_has_no_band(name: str) -> None:
    draw, frame = DRAWN[name]
    one = frame[frame["run"] == "bn-0"].drop(columns=["run", "net", "seed"])
    figure = draw(one)
    assert "run (n = 1)" in texts(figure)
    assert "bands" not in texts(figure)


@pytest.mark.parametrize("name", DRAWN)
def test_the_colours_given_are_used(name: str) -> None:
    draw, frame = DRAWN[name]
    figure = draw(frame, colors={"standard": "#123456", "bn": "#654321"})
    colors = {to_hex(drawn.get_color()) for axes in figure.axes for drawn in axes.get_lines()}
    assert colors & {"#123456", "#654321"} == {"#123456", "#654321"}


@pytest.mark.parametrize("name", DRAWN)
def test_empty_frames_and_missing_columns_are_clear_errors(name: str) -> None:
    draw, frame = DRAWN[name]
    with pytest.raises(UsageError, match="got a frame without any"):
        draw(frame.iloc[:0])
    with pytest.raises(SelectionError, match=r"without (\w+, )*step"):
        draw(frame.drop(columns="step"))
    with pytest.raises(UsageError, match=r"type runs\.table"):
        draw("gradient_shift")


def test_a_loop_that_logged_nothing_is_told_what_to_type() -> None:
    with pytest.raises(UsageError, match=r"step\.log\(loss=loss\)"):
        plots.training_curves(STEPS[["step", "measured"]])


def test_a_site_that_was_not_recorded_is_named_with_those_that_were() -> None:
    with pytest.raises(SelectionError, match="'scaled'; there are: activation, preactivation"):
        plots.distributions(ACTIVATIONS, site="scaled")


def test_extremes_are_drawn_without_a_warning() -> None:
    dead = pd.DataFrame([activation_row(np.zeros((50, 2)), step=step) for step in (0, 10)])
    plots.distributions(dead).savefig("/dev/null", format="png")
    still = SHIFT.assign(shift_l2=0.0, shift_relative=0.0, shift_cosine=1.0)
    plots.gradient_shift(still).savefig("/dev/null", format="png")
    infinite = LINE.assign(loss=LINE["loss"].where(LINE["eta"] < 0.3, np.inf))
    plots.landscape(infinite).savefig("/dev/null", format="png")
    undefined = SHIFT.assign(shift_cosine=np.nan, floor_cosine=np.nan)
    plots.gradient_shift_by_layer(undefined).savefig("/dev/null", format="png")
    exploded = STEPS.assign(loss=STEPS["loss"].where(STEPS["step"] < 30, np.inf))
    plots.training_curves(exploded).savefig("/dev/null", format="png")
