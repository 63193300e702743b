"""Make docs/report.png from the runs of the demo: `.venv/bin/python scripts/report_picture.py`."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import ics

ROOT = Path(__file__).parents[1]
WIDTH = 1400
COLOURS = 96


def as_image(figure: Figure) -> Image.Image:
    """Return the figure as an image of the picture's width."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=WIDTH / figure.get_figwidth(), facecolor="white")
    return Image.open(buffer).convert("RGB")


def stacked(images: list[Image.Image]) -> Image.Image:
    """Return the images below each other on white."""
    picture = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        picture.paste(image, (0, top))
        top += image.height
    return picture


def main() -> None:
    """Draw three figures of the report and write them, one below the other."""
    runs = ics.open_runs(str(ROOT / "runs" / "demo" / "*-[0-9]"))
    activations = runs.table("activations", where={"site": "activation"})
    figures = [
        ics.plots.gradient_shift_by_layer(runs.table("gradient_shift")),
        ics.plots.landscape(runs.table("gradient_line")),
        ics.plots.distributions(activations, site="activation"),
    ]
    picture = stacked([as_image(figure) for figure in figures])
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(ROOT / "docs" / "report.png", optimize=True)


if __name__ == "__main__":
    main()
