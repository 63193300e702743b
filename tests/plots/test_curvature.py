"""Figures of the curvature hold the numbers that analysis returns."""

from ics import analysis, plots
from tests.plots.drawing import CURVATURE, NETS, assert_draws, line, note


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
