"""What updates did to the distributions of one fixed batch, with the noise floor."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from ics import analysis
from ics.analysis.drift import BEFORE_UPDATE
from ics.analysis.frames import chosen
from ics.plots import style

_UNITS = {
    "mean_shift": "mean shift (std)",
    "log_variance_ratio": "|log variance ratio|",
    "gaussian_kl": "Gaussian KL (nat)",
    "wasserstein_1": "Wasserstein-1 (std)",
}


@style.in_style
def drift(
    frame: pd.DataFrame,
    *,
    site: str = "preactivation",
    measure: str = "wasserstein_1",
    layers: int = 4,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the same-batch drift over the steps: one row for this update, one since the reference step; columns: layers.

    Draws one measure of `ics.analysis.drift_over_steps`. Lines are medians over runs and bands run from min to max.
    Dashed lines are the floor: the same distance between the two halves of the probe batch.

    Args:
        frame: rows of the table drift, of one run or several.
        site: `"input"`, `"preactivation"`, `"normalized"`, `"scaled"` or `"activation"`.
        measure: `"mean_shift"`, `"log_variance_ratio"`, `"gaussian_kl"` or `"wasserstein_1"`.
        layers: most layers drawn, evenly chosen in the order of execution.
        colors: net to colour; default: `ics.plots.net_colors`.

    Raises:
        SelectionError: a column is missing, the site was not recorded, or there is no such measure.
        UsageError: no rows.
    """
    values = chosen(analysis.drift_over_steps(frame, site=site), "measure", measure)
    colors = colors or style.net_colors(values["net"])
    drawn, num_layers = style.layers_drawn(values, layers)
    by_kind = _kinds(values)
    size = {"width": 1.2 + 2.5 * max(len(drawn), 2), "height": 1.6 + 2.3 * len(by_kind)}
    figure, grid = style.grid_of_axes(len(by_kind), len(drawn), **size, sharey="row")
    figure.suptitle(f"Same-batch drift of the {style.SITE_NAMES.get(site, site)}")
    for row, (kind, rows) in zip(grid, by_kind.items(), strict=True):
        for axes, place in zip(row, drawn, strict=True):
            for (net, layer, reference), line in style.panel_rows(rows, place).groupby(_LINE, sort=False):
                for quantity, linestyle in (("drift", "-"), ("floor", "--")):
                    gid = f"{quantity}/{net}/{layer}/{reference}"
                    style.draw_band(axes, line, "step", quantity, color=colors[str(net)], linestyle=linestyle, gid=gid)
            style.step_axis(axes, values["step"])
        row[0].set_ylabel(f"{kind}\n{_UNITS[measure]}")
        # The panels of a row share an axis, so all of them decide whether it is logarithmic.
        shown = rows[rows["layer_index"].isin([index for index, _ in drawn])]
        style.value_axis(row[0], [shown[f"{name}{end}"] for name in ("drift", "floor") for end in ("_low", "_high")])
    for axes, place in zip(grid[0], drawn, strict=True):
        axes.set_title(style.panel_title(style.panel_rows(values, place)))
    zeros = style.zeros_note(grid.flat, values["drift"])
    note = "\n".join(line for line in (style.panels_note(len(drawn), num_layers), zeros) if line)
    style.net_legend(figure, values, colors, extra=[style.floor_handle()], note=note)
    return figure


_LINE = ["net", "layer", "reference"]


def _kinds(values: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the content of each row of panels: this update alone, and all updates since the reference step."""
    of_update = values["reference"] == BEFORE_UPDATE
    since = values[~of_update]
    names = list(since["reference"].drop_duplicates())
    step = names[0].removeprefix("step_") if len(names) == 1 else "the reference"
    kinds = {"by this update": values[of_update], f"since step {step}": since}
    return {kind: rows for kind, rows in kinds.items() if len(rows)}
