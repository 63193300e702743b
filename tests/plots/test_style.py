"""Colours, axes and labels."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from ics.plots import style


@given(st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=len(style.PALETTE)), st.randoms())
def test_nets_differ_in_colour_whatever_their_order(nets: list[str], random: object) -> None:
    colors = style.net_colors(nets)
    assert len(set(colors.values())) == len(nets)
    shuffled = nets[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert style.net_colors(shuffled) == colors


def test_the_usual_nets_keep_their_colours_in_any_company() -> None:
    alone = {net: style.net_colors([net])[net] for net in ("standard", "bn")}
    company = style.net_colors(["noisy-bn", "vgg", "bn", "standard", "l1"])
    assert {net: company[net] for net in alone} == alone
    assert alone["standard"] != alone["bn"]


def test_names_that_contain_one_another_are_different_nets() -> None:
    colors = style.net_colors(["BN", "NoBN", "bn"])
    assert len(set(colors.values())) == 3


def test_colours_differ_in_lightness_or_are_told_apart_under_colour_blindness() -> None:
    """Each pair stays apart for protanopes and deuteranopes (Viénot 1999, linear RGB)."""
    rgb = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in style.PALETTE]) ** 2.2
    protan = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])
    deutan = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    for view in (np.eye(3), protan, deutan):
        seen = np.clip(rgb @ view.T, 0, 1) ** (1 / 2.2)
        gaps = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(len(seen), 1)]
        assert gaps.min() > 0.12


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1.0, 100.0], "log"),
        ([1.0, 20.0], "linear"),
        ([-1.0, 100.0], "linear"),
        ([0.0, 0.01, 5.0], "log"),
        ([], "linear"),
    ],
)
def test_value_axes_are_logarithmic_where_scales_differ(values: list[float], scale: str) -> None:
    axes = Figure().subplots()
    style.value_axis(axes, [values, [np.nan, np.inf]])
    assert axes.get_yscale() == scale


@pytest.mark.parametrize(
    ("steps", "scale"),
    [(range(0, 100, 10), "linear"), ([0, 1, 2, 4, 8, 16, 32, 64, 128, 256], "symlog"), ([0], "linear")],
)
def test_step_axes_are_logarithmic_where_steps_were_spaced_so(steps: object, scale: str) -> None:
    axes = Figure().subplots()
    style.step_axis(axes, pd.Series(list(steps)))  # type: ignore[call-overload]
    assert axes.get_xscale() == scale
    assert axes.get_xlabel() == "optimizer step"


def test_the_callers_settings_stay_as_they_are() -> None:
    before = dict(matplotlib.rcParams)

    @style.in_style
    def draw() -> Figure:
        assert matplotlib.rcParams["axes.spines.top"] is False
        return Figure()

    draw()
    assert dict(matplotlib.rcParams) == before
