"""The two figures of the deep linear net, after Fig. 3b and Fig. 10 of Santurkar et al. 2018."""

from __future__ import annotations

import io

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import ics
from ics import analysis
from ics.plots import style
from ics.store import Run

LAYERS = ("linear9", "linear17")
WIDTH = 1500
COLOURS = 96


def by_rate(runs: list[Run], table: str) -> dict[float, pd.DataFrame]:
    """Return a table of all runs as a frame per learning rate, the larger one first."""
    frames: dict[float, list[pd.DataFrame]] = {}
    for run in runs:
        config = run.info["config"]
        identity = {"run": run.name, "net": config["net"], "seed": config["seed"]}
        frames.setdefault(config["learning_rate"], []).append(run.table(table).assign(**identity))
    return {rate: pd.concat(frames[rate], ignore_index=True) for rate in sorted(frames, reverse=True)}


def shift_picture(runs: list[Run]) -> Image.Image:
    """Draw loss, l2 difference and cosine of the gradient shift over the steps: a row per learning rate."""
    with style.settings():
        return as_image(_shift_figure(runs)).quantize(COLOURS, dither=Image.Dither.NONE)


def landscape_picture(runs: list[Run]) -> Image.Image:
    """Draw the landscape along the gradient, a figure of `ics.plots` per learning rate, one below the other."""
    images = []
    for rate, frame in by_rate(runs, "gradient_line").items():
        figure = ics.plots.landscape(frame)
        figure.suptitle(f"Learning rate {rate:.0e}: {figure.get_suptitle()}")
        images.append(as_image(figure))
    picture = Image.new("RGB", (WIDTH, sum(image.height for image in images)), "white")
    for place, image in enumerate(images):
        picture.paste(image, (0, sum(one.height for one in images[:place])))
    return picture.quantize(COLOURS, dither=Image.Dither.NONE)


def as_image(figure: Figure) -> Image.Image:
    """Return the figure as an image of few colours, `WIDTH` pixels wide."""
    buffer = io.BytesIO()
    with style.settings():
        figure.savefig(buffer, format="png", dpi=WIDTH / figure.get_figwidth())
    image = Image.open(buffer).convert("RGB")
    return image.resize((WIDTH, image.height)).quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")


def _shift_figure(runs: list[Run]) -> Figure:
    shifts, losses = by_rate(runs, "gradient_shift"), by_rate(runs, "steps")
    figure, grid = style.grid_of_axes(len(shifts), 5, width=13.5, height=6.4)
    figure.suptitle("Deep linear net: loss and gradient shift, with and without BatchNorm")
    for row, rate in zip(grid, shifts, strict=True):
        gathered = analysis.shift_over_steps(shifts[rate])
        colors = style.net_colors(gathered["net"])
        measured = losses[rate][losses[rate]["step"].isin(gathered["step"])]
        curves = analysis.training_curves(measured)
        _panel(row[0], curves[curves["measure"] == "loss"], "value", colors, f"lr {rate:.0e}\nloss")
        for number, layer in enumerate(LAYERS):
            of_layer = gathered[gathered["layer"] == layer]
            l2, cosine = (of_layer[of_layer["measure"] == name] for name in ("l2", "cosine"))
            _panel(row[1 + number], l2, "shift", colors, "||G - G'||  (loss / weight)")
            _panel(row[3 + number], cosine, "shift", colors, "cos(G, G')", logarithmic=False)
            row[1 + number].set_title(f"l2 difference, layer {layer.removeprefix('linear')}")
            row[3 + number].set_title(f"cosine, layer {layer.removeprefix('linear')}")
            row[3 + number].set_ylim(-1.05, 1.05)
        row[0].set_title("training loss")
        low = min(axes.get_ylim()[0] for axes in row[1:3])
        high = max(axes.get_ylim()[1] for axes in row[1:3])
        for axes in row[1:3]:
            axes.set_ylim(low, high)
    style.net_legend(figure, gathered, colors)
    return figure


def _panel(
    axes: Axes, rows: pd.DataFrame, y: str, colors: dict[str, str], label: str, *, logarithmic: bool = True
) -> None:
    for net, of_net in rows.groupby("net", sort=False):
        style.draw_band(axes, of_net, "step", y, color=colors[str(net)], gid=f"{y}/{net}")
    axes.set_ylabel(label)
    if logarithmic:
        axes.set_yscale("log")
    style.step_axis(axes, rows["step"])
    if axes.get_xscale() != "linear":
        axes.set_xticks([0, 10, 100, 1000, 10_000])  # in narrow panels the labels of 0 and 1 run into each other
