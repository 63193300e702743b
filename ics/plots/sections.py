"""The sections of the report that hold figures: what was recorded, drawn and explained in a few sentences."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ics import analysis
from ics.analysis.density import COLUMNS as DENSITY_COLUMNS
from ics.analysis.measures import first_and_last
from ics.analysis.reading import nets_of, read, read_steps
from ics.plots import curves, lines, page, ridge, shifts, style
from ics.schema import WHOLE_NET
from ics.store import Runs

_STEPS_DRAWN = 6


@dataclass(frozen=True)
class Subject:
    """The runs of a report, and the one colour of each net."""

    runs: Runs
    colors: dict[str, str]

    @classmethod
    def of(cls, runs: Runs) -> Subject:
        """Colour the nets of the runs."""
        return cls(runs, style.net_colors(nets_of(runs)))


def training(subject: Subject) -> str:
    """Loss and what else was logged."""
    lead = "The loss of each training batch, and what else the loop logged, as the nets trained."
    frame = read(subject.runs, "steps")
    if frame is None:
        return absent("Training", "steps")
    figure = curves.training_curves(frame, colors=subject.colors)
    return page.section("Training", lead, page.picture(figure, "training curves"))


def shift(subject: Subject) -> str:
    """Internal covariate shift over steps and by layer."""
    frame = read(subject.runs, "gradient_shift")
    if frame is None:
        return absent("Gradient shift", "gradient_shift")
    lead = (
        "How much the gradient G of a layer changes to G' when only the layers before it are updated: the internal "
        "covariate shift of Santurkar et al. 2018. Both gradients are of the same training batch with the same random "
        "draws. The noise floor (dashed) is the same measure between G and the gradient of another batch at the same "
        "weights: a shift well below it is less than what sampling a batch changes anyway. Compare nets by the "
        "relative shift or the cosine; the scale of ||G - G'|| differs with that of the gradients."
    )
    over_steps = shifts.gradient_shift(frame, colors=subject.colors)
    by_layer = shifts.gradient_shift_by_layer(frame, colors=subject.colors)
    pictures = (
        page.picture(over_steps, "gradient shift over steps"),
        page.picture(by_layer, "gradient shift by layer"),
    )
    return page.section("Gradient shift", lead, *pictures)


def landscape(subject: Subject) -> str:
    """Loss, gradient and beta along the gradient."""
    frame = read(subject.runs, "gradient_line", where={"direction": "gradient"})
    if frame is None:
        return absent("Loss landscape", "gradient_line")
    lead = (
        "What the loss and its gradient do when a step of size eta is taken along the gradient g, on the training "
        "batch: the range of the loss, the range of the change of the gradient, and the largest change per distance "
        "(effective beta). Narrow bands and a small beta mean a smooth landscape. Beta has no noise floor; its "
        "reference is the dashed line 2/lr, where training at the edge of stability holds it whatever the net."
    )
    figure = lines.landscape(frame, colors=subject.colors)
    picture = page.picture(figure, "loss landscape along the gradient")
    return page.section("Loss landscape", lead, picture, _moved_alone(frame))


def _moved_alone(frame: pd.DataFrame) -> str:
    """Name the layers that were also moved one at a time, which the figure leaves out."""
    alone = [str(layer) for layer in frame["layer"].dropna().unique() if layer != WHOLE_NET]
    if not alone:
        return ""
    listed = ", ".join(alone[:6]) + (", …" if len(alone) > 6 else "")
    text = f'Recorded with one layer moved at a time too ({listed}): ics.plots.landscape(frame, layer="{alone[0]}").'
    return page.paragraph(text, kind="quiet")


def activations(subject: Subject) -> str:
    """Distributions over training, and how normal they are."""
    pictures = []
    for site in ("preactivation", "scaled", "activation"):
        where = {"site": site}
        frame = read_steps(subject.runs, "activations", columns=DENSITY_COLUMNS, where=where, limit=_STEPS_DRAWN)
        if frame is not None:
            figure = ridge.distributions(frame, site=site, steps=_STEPS_DRAWN, colors=subject.colors)
            pictures.append(page.picture(figure, f"distributions at the site {site}"))
    if not pictures:
        return absent("Activations", "activations")
    lead = (
        "How the values of a layer are distributed, from the first measured step (bottom) to the last (top): before "
        "the normalisation (pre-activation), after it where there is one, and after the activation function. From the "
        "histograms of whole training batches; different steps saw different batches, so small movements are sampling."
    )
    return page.section("Activations", lead, *pictures, *_shape(subject))


def _shape(subject: Subject) -> list[str]:
    """How normal the inputs of the activation functions are, first and last step."""
    frame = first_and_last(subject.runs)
    if frame is None:
        return []
    shape = analysis.normality(frame)
    names = {
        "ks": "KS distance",
        "wasserstein_2": "Wasserstein-2 (std)",
        "skewness": "skewness",
        "excess_kurtosis": "excess kurtosis",
        "channel_skewness": "|skewness| of a channel",
        "channel_excess_kurtosis": "|excess kurtosis| of a channel",
    }
    medians = shape.groupby(["net", "step"], sort=False)[list(names)].median().reset_index().rename(columns=names)
    text = (
        "What enters the activation functions against the normal distribution of the same mean and variance, median "
        "over layers and runs; 0 is normal in every column. All channels together make a mixture, so the last two "
        "columns look at one channel at a time. From stored moments and histograms; no floor was measured for them."
    )
    return [page.paragraph(text), page.table(medians, swatches=subject.colors)]


def absent(title: str, table: str) -> str:
    """A section whose table no run holds."""
    text = f"Not recorded: no run holds rows of the table {table}."
    return page.section(title, "", page.paragraph(text, kind="quiet"))
