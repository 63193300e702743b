"""What holds for every figure: who owns it, its colours, one run, mistakes, long nets and extreme numbers."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ics import plots
from ics.errors import SelectionError, UsageError
from tests.analysis.synthetic import activation_row
from tests.analysis.synthetic_tables import drift_frame, normalization_frame
from tests.plots.drawing import (
    ACTIVATIONS,
    ATTRIBUTION,
    CURVATURE,
    DRIFT,
    LINE,
    MANY,
    NORMALIZATION,
    SHIFT,
    STEPS,
    note,
    texts,
)

DRAWN = {
    "training_curves": (plots.training_curves, STEPS),
    "gradient_shift": (plots.gradient_shift, SHIFT),
    "gradient_shift_by_layer": (plots.gradient_shift_by_layer, SHIFT),
    "landscape": (plots.landscape, LINE),
    "distributions": (plots.distributions, ACTIVATIONS),
    "curvature": (plots.curvature, CURVATURE),
    "drift": (plots.drift, DRIFT),
    "attribution": (plots.attribution, ATTRIBUTION),
    "normalization": (plots.normalization, NORMALIZATION),
}


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


@pytest.mark.parametrize("name", ["drift", "normalization"])
def test_long_nets_are_thinned_and_say_so(name):
    draw, make = {"drift": (plots.drift, drift_frame), "normalization": (plots.normalization, normalization_frame)}[
        name
    ]
    figure = draw(make(layers=MANY, steps=(0, 10)), layers=3)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["0: features.0", "10: features.10", "19: features.19"]
    assert "3 of 20 layers" in note(figure)


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
    if name == "attribution":  # a matrix per net, named by its title
        assert figure.axes[0].get_title() == "run (n = 1)"
        return
    assert "run (n = 1)" in texts(figure)
    assert "bands" not in texts(figure)


@pytest.mark.parametrize("name", DRAWN)
def test_the_colours_given_are_used(name: str) -> None:
    draw, frame = DRAWN[name]
    figure = draw(frame, colors={"standard": "#123456", "bn": "#654321"})
    is_matrix = name == "attribution"
    colored = [drawn for axes in figure.axes for drawn in ([axes.title] if is_matrix else axes.get_lines())]
    colors = {to_hex(drawn.get_color()) for drawn in colored}
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
