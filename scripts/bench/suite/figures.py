"""The figures of docs/performance.md: cost per tool and net, and how the cost grows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ics.plots import style
from scripts.bench.suite.nets import FULL_SUITE, NETS
from scripts.bench.suite.ways import Way

COLORS = {
    "ics": style.PALETTE[1],
    "records no more than one of these": style.PALETTE[0],
    "records other things": style.PALETTE[3],
}
GROWTH_COLORS = dict(
    zip(
        ("plain", "light", "gradients", "torchinstruments", "torchlens", "tensorboard", "hooks"),
        style.PALETTE,
        strict=True,
    )
)
GROWTH_COLORS |= {"plain": style.PALETTE[6], "hooks": style.PALETTE[0]}
LABELS = {
    "depth": "linear layers (width 100, batch 128)",
    "width": "width (8 layers, batch 128)",
    "batch": "batch size (8 layers, width 100)",
}


@style.in_style
def tools_figure(frame: pd.DataFrame, ways: Mapping[str, Way]) -> Figure:
    """Draw a bar per tool and net: plain steps that a recorded step takes, of one run per net."""
    nets = [net for net in FULL_SUITE if net in set(frame["net"])]
    figure, grid = style.grid_of_axes(1, len(nets), width=3.6 * len(nets) + 1.2, height=3.8, sharey=True)
    names = [name for name in dict.fromkeys(frame["way"]) if name != "plain"]
    for axes, net in zip(grid[0], nets, strict=True):
        rows = frame[frame["net"] == net].set_index("way").reindex(names)
        _bars(axes, rows, ways)
        axes.set_title(NETS[net].label)
    grid[0, 0].set_yticks(range(len(names)), [ways[name].label for name in names])
    grid[0, 0].invert_yaxis()
    handles = [Patch(color=color, label=kind) for kind, color in COLORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle("What recording at every step costs (x: cannot run here)")
    return figure


@style.in_style
def growth_figure(frame: pd.DataFrame, ways: Mapping[str, Way]) -> Figure:
    """Draw the ratio to the plain step along depth, width and batch, and the time per step along the run."""
    figure, grid = style.grid_of_axes(1, 4, width=13.0, height=3.6)
    for axes, axis in zip(grid[0], LABELS, strict=False):
        rows = frame[(frame["axis"] == axis) & (frame["way"] != "plain")]
        for way, of_way in rows.groupby("way", sort=False):
            color = GROWTH_COLORS[str(way)]
            axes.plot(of_way["value"], of_way["ratio"], color=color, marker=style.marker_of(color))
            axes.fill_between(
                of_way["value"], of_way["low"], of_way["high"], color=color, alpha=style.BAND, linewidth=0
            )
        axes.axhline(1.0, color=style.GREY, linestyle="--")
        axes.set_xscale("log", base=2)
        values = sorted(rows["value"].unique())
        axes.set_xticks(values, [str(value) for value in values])
        axes.set_xlabel(LABELS[axis])
        axes.set_ylim(bottom=0)
    grid[0, 0].set_ylabel("recorded step / plain step")
    _length(grid[0, 3], frame[frame["axis"] == "length"], ways)
    handles, labels = grid[0, 3].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with style.settings():
        figure.savefig(path, dpi=110)


def _bars(axes: Axes, rows: pd.DataFrame, ways: Mapping[str, Way]) -> None:
    for place, (name, row) in enumerate(rows.iterrows()):
        if pd.isna(row["ratio"]):
            axes.plot(1.1, place, marker="x", color=style.GREY, markersize=6)
            continue
        color = COLORS[_kind(ways[str(name)])]
        axes.barh(place, row["ratio"] - 0.9, left=0.9, color=color, height=0.7)
        axes.plot([row["low"], row["high"]], [place, place], color=style.PALETTE[6], linewidth=1.0)
        axes.annotate(
            f"{row['ratio']:.3g}", (row["high"], place), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.set_xscale("log")
    axes.set_xlim(0.9, max(rows["high"].max() * 2.5, 3))
    axes.axvline(1.0, color=style.GREY, linestyle="--")
    axes.set_xlabel("plain steps")


def _kind(way: Way) -> str:
    own, within, other = COLORS
    return own if way.kind == "ics" else within if way.within else other


def _length(axes: Axes, rows: pd.DataFrame, ways: Mapping[str, Way]) -> None:
    for way, of_way in rows.groupby("way", sort=False):
        color = GROWTH_COLORS[str(way)]
        axes.plot(
            of_way["value"],
            of_way["ms_per_step"],
            color=color,
            marker=style.marker_of(color),
            label=ways[str(way)].label,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measured steps of the run (tiny MLP)")
    axes.set_ylabel("ms a step, writing included")
