"""Draws the results of `ics bench`: the ratio to a plain step against the interval, one panel per model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ics.plots.style import GREY, MARKERS, PALETTE, grid_of_axes, settings

_LOWEST = -5.0  # per cent: lower values only say that the machine was busy


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Draw the medians with their 95 % intervals, as the percentage that recording adds to a plain step.

    Args:
        frame: a row per `ics.experiments.benchmarking.overhead.Cost`.
        path: the image; its suffix decides the format.
    """
    with settings():
        models = list(frame["model"].unique())
        figure, grid = grid_of_axes(1, len(models), width=1.0 + 3.0 * len(models), height=3.6, sharey=True)
        for axes, model in zip(grid[0], models, strict=True):
            _panel(axes, frame[frame["model"] == model])
        grid[0][0].set_ylim(bottom=max(grid[0][0].get_ylim()[0], _LOWEST))
        grid[0][0].set_ylabel("added to a plain step, per cent")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) if len(models) > 1 else 3)
        figure.savefig(path, dpi=120)


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    measured = rows[rows["interval"] > 0]
    for number, (way, lines) in enumerate(measured.groupby("way", sort=False)):
        added = 100 * (lines[["ratio", "low", "high"]] - 1)
        spread = [added["ratio"] - added["low"], added["high"] - added["ratio"]]
        style: dict[str, Any] = {"color": PALETTE[number], "marker": MARKERS[number], "capsize": 2}
        axes.errorbar(lines["interval"], added["ratio"], spread, label=str(way).replace("_", " "), **style)
    idle = rows[rows["way"] == "idle"].iloc[0]
    axes.axhspan(100 * (idle["low"] - 1), 100 * (idle["high"] - 1), color=GREY, alpha=0.25, linewidth=0)
    axes.axhline(100 * (idle["ratio"] - 1), color=GREY, linestyle="--", label="idle recorder")
    axes.set_xscale("log")
    axes.set_xticks(sorted(measured["interval"].unique()), [f"{n}" for n in sorted(measured["interval"].unique())])
    axes.minorticks_off()
    axes.set_yscale("symlog", linthresh=1.0)  # logarithmic for whole steps, yet with values around and below zero
    axes.set_xlabel("measured every n-th step")
    axes.set_title(f"{idle['model']}, batch {idle['batch_size']}\nplain step {1000 * idle['plain_seconds']:.1f} ms")
