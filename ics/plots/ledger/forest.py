"""A forest plot: one effect per line, each with its interval and the region that the claim predicts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ics.plots import style
from ics.plots.style import GREY, PALETTE

VOTES = {"supported": PALETTE[2], "contradicted": PALETTE[0], "inconclusive": PALETTE[6]}
"""Colour of an effect by what it says; one without a vote is grey."""

# Shape says the same as colour, for print and for those who cannot tell the colours apart.
_MARKERS = {"supported": "o", "contradicted": "s", "inconclusive": "D"}
# Ratios beyond it end at the edge: one of 1e12, from a loss that nearly overflowed, would flatten all the others.
_WIDEST = 1e4


@style.in_style
def forest(effects: pd.DataFrame) -> Figure:
    """Draw the effects of one claim, a row each.

    A circle is an effect that supports the claim, a square contradicts it, a diamond leaves it open, and a grey cross
    has no vote. The shaded band is the region that the claim predicts. Ratios share a logarithmic axis. Every other
    measure has an axis of its own, because units differ. An infinite estimate is drawn as an arrow at the edge.

    Args:
        effects: rows with `measure`, `setting`, `scale`, `center`, `low`, `high`, `n`, and where there is a criterion
            `region_low`, `region_high` and `vote`.
    """
    rows = effects[effects["center"].notna()].reset_index(drop=True)
    ratios = rows[rows["scale"] == "ratio"]
    groups = [ratios] if len(ratios) else []
    groups += [group for _, group in rows[rows["scale"] != "ratio"].groupby("measure", sort=False)]
    if not groups:
        figure, axes = style.grid_of_axes(1, 1, width=8, height=0.6)
        axes[0, 0].set_axis_off()
        return figure
    heights = [0.45 + 0.28 * len(group) for group in groups]
    figure, grid = style.grid_of_axes(
        len(groups), 1, width=8.4, height=sum(heights) + 0.25 * len(groups), height_ratios=heights
    )
    for axes, group in zip(grid[:, 0], groups, strict=True):
        _draw(axes, group.reset_index(drop=True))
    return figure


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    is_ratio = bool((rows["scale"] == "ratio").all())
    low, high = _limits(rows, logarithmic=is_ratio)
    if is_ratio:
        axes.set_xscale("log")
        _plain_ticks(axes, low, high)
    axes.set_xlim(low, high)
    for place, row in enumerate(rows.to_dict("records")):
        _region(axes, place, row, low, high)
        vote = row.get("vote") if isinstance(row.get("vote"), str) else None
        color = VOTES.get(str(vote), GREY)
        ends = [min(max(end, low), high) for end in (_or(row["low"], row["center"]), _or(row["high"], row["center"]))]
        axes.plot(ends, [place, place], color=color, linewidth=1.8, gid=f"interval-{place}")
        center = min(max(row["center"], low), high)
        marker = _MARKERS.get(str(vote), "x") if math.isfinite(row["center"]) else ">" if row["center"] > 0 else "<"
        # Not clipped, or an arrow at the edge would lose its tip.
        axes.plot([center], [place], color=color, marker=marker, markersize=6, linestyle="none", clip_on=False)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows.to_dict("records")])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    unit = str(rows["unit"].iloc[0]) if "unit" in rows.columns else ""
    axes.set_xlabel(
        "ratio" if is_ratio else f"{rows['measure'].iloc[0]}{f' ({unit})' if unit not in ('', '1') else ''}"
    )
    axes.axvline(1.0 if is_ratio else 0.0, color=GREY, linewidth=0.8, linestyle=":")


def _plain_ticks(axes: Axes, low: float, high: float) -> None:
    """0.2, 0.5, 1, 2 instead of powers of ten; powers alone over more than three decades."""
    narrow = high < 10 * low
    locator = MaxNLocator(6) if narrow else LogLocator(subs=(1.0, 2.0, 5.0) if high < 1e3 * low else (1.0,))
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator() if narrow else LogLocator(subs=range(2, 10)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _region(axes: Axes, place: int, row: dict[Any, Any], low: float, high: float) -> None:
    ends = [row.get("region_low"), row.get("region_high")]
    if any(end is None or math.isnan(end) for end in ends):
        return
    left, right = (min(max(float(end), low), high) for end in ends if end is not None)
    axes.fill_between([left, right], place - 0.42, place + 0.42, color="#DCE9F2", linewidth=0, zorder=0)


def _limits(rows: pd.DataFrame, *, logarithmic: bool) -> tuple[float, float]:
    """Return the range that shows every finite end and border, with a margin."""
    names = [name for name in ("center", "low", "high", "region_low", "region_high") if name in rows.columns]
    values = rows[names].to_numpy(float).ravel()
    # 1 is always in sight: ratios are read against it.
    values = np.append(values[np.isfinite(values)], 1.0 if logarithmic else [])
    if logarithmic:
        values = np.log(np.clip(values[values > 0], 1 / _WIDEST, _WIDEST))
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 0.1
    ends = (low - room, high + room)
    return (math.exp(ends[0]), math.exp(ends[1])) if logarithmic else ends


def _label(row: dict[Any, Any]) -> str:
    setting = f", {row['setting']}" if row.get("setting") else ""
    return f"{row['measure']}{setting} (n = {row['n']})"


def _or(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value
