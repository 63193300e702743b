"""The sections of the report that hold figures: each draws one table and explains it in a few sentences.

If a table that is recorded by default is missing, its section says so. The tables of `OPTIONAL` have a section only if
they were recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from ics import analysis
from ics.analysis.activations import COLUMNS as DENSITY_COLUMNS
from ics.analysis.headline import number
from ics.analysis.run_measures import first_and_last
from ics.analysis.run_tables import nets_of, read, read_steps
from ics.plots import html_page, style
from ics.plots.activations import distributions
from ics.plots.attribution import attribution
from ics.plots.curvature import curvature
from ics.plots.drift import drift
from ics.plots.gradient_line import landscape
from ics.plots.gradient_shift import gradient_shift, gradient_shift_by_layer
from ics.plots.normalization import normalization
from ics.plots.training import training_curves
from ics.schema import WHOLE_NET
from ics.store import Runs

OPTIONAL = ("attribution", "curvature", "drift", "normalization")
_STEPS_DRAWN = 6
_DRIFT_SITES = ("preactivation", "scaled")
# Among the other columns are lists over all channels that no figure needs.
_NORMALIZATION_COLUMNS = (
    *("step", "layer", "layer_index", "call", "output_gradient_squared", "rescaled_gradient_squared", "mean_term"),
    *("normalized_term", "input_gradient_squared", "theorem_error", "channel_weight", "channel_bias"),
)


@dataclass(frozen=True)
class Subject:
    """The runs of a report, and the colour that each net has in all figures."""

    runs: Runs
    colors: dict[str, str]

    @classmethod
    def of(cls, runs: Runs) -> Subject:
        """Colour the nets of the runs."""
        return cls(runs, style.net_colors(nets_of(runs)))


def training_section(subject: Subject) -> str:
    """Loss and what else was logged."""
    lead = "The loss of each training batch, and what else the loop logged, as the nets trained."
    frame = read(subject.runs, "steps")
    if frame is None:
        return absent("Training", "steps")
    figure = training_curves(frame, colors=subject.colors)
    return html_page.section("Training", lead, html_page.picture(figure, "training curves"))


def gradient_shift_section(subject: Subject) -> str:
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
    over_steps = gradient_shift(frame, colors=subject.colors)
    by_layer = gradient_shift_by_layer(frame, colors=subject.colors)
    pictures = (
        html_page.picture(over_steps, "gradient shift over steps"),
        html_page.picture(by_layer, "gradient shift by layer"),
    )
    return html_page.section("Gradient shift", lead, *pictures)


def gradient_line_section(subject: Subject) -> str:
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
    figure = landscape(frame, colors=subject.colors)
    picture = html_page.picture(figure, "loss landscape along the gradient")
    return html_page.section("Loss landscape", lead, picture, _moved_alone(frame))


def _moved_alone(frame: pd.DataFrame) -> str:
    """Name the layers that were also moved one at a time, which the figure does not show."""
    alone = [str(layer) for layer in frame["layer"].dropna().unique() if layer != WHOLE_NET]
    if not alone:
        return ""
    listed = ", ".join(alone[:6]) + (", …" if len(alone) > 6 else "")
    text = f'Recorded with one layer moved at a time too ({listed}): ics.plots.landscape(frame, layer="{alone[0]}").'
    return html_page.paragraph(text, kind="quiet")


def activations_section(subject: Subject) -> str:
    """Distributions over training, and how normal they are."""
    pictures = []
    for site in ("preactivation", "scaled", "activation"):
        where = {"site": site}
        frame = read_steps(subject.runs, "activations", columns=DENSITY_COLUMNS, where=where, limit=_STEPS_DRAWN)
        if frame is not None:
            figure = distributions(frame, site=site, steps=_STEPS_DRAWN, colors=subject.colors)
            pictures.append(html_page.picture(figure, f"distributions at the site {site}"))
    if not pictures:
        return absent("Activations", "activations")
    lead = (
        "How the values of a layer are distributed, from the first measured step (bottom) to the last (top): before "
        "the normalisation (pre-activation), after it where there is one, and after the activation function. From the "
        "histograms of whole training batches; different steps saw different batches, so small movements are sampling."
    )
    return html_page.section("Activations", lead, *pictures, *_shape(subject))


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
    return [html_page.paragraph(text), html_page.table(medians, swatches=subject.colors)]


def attribution_section(subject: Subject) -> str:
    """Which earlier layer's update moved a layer's gradient."""
    frame = read(subject.runs, "attribution", where={"parameters": "weight"})
    if frame is None:
        return ""
    lead = (
        "The gradient shift of each layer, split by the one earlier layer whose update caused it: the part of it "
        "that is there when that layer alone is updated, projected on the whole shift. Same training batch and random "
        "draws. What no layer does alone is the remainder: layers acting together. Shares have no noise floor of their "
        "own; whether there is a shift to speak of is seen from the whole shift and its floor above."
    )
    figure = attribution(frame, colors=subject.colors)
    return html_page.section(
        "Where the shift comes from", lead, html_page.picture(figure, "shares of the shift by source layer")
    )


def curvature_section(subject: Subject) -> str:
    """Largest Hessian eigenvalue and batch sharpness beside 2/lr."""
    frame = read(subject.runs, "curvature")
    if frame is None:
        return ""
    lead = (
        "How sharply the loss of the training batch bends: the largest eigenvalue of its Hessian (Lanczos) and "
        "the curvature along its gradient (batch sharpness), before the update. There is no noise floor; the reference "
        "is the dashed line 2/lr: gradient descent on a quadratic diverges above it, and training at the edge of "
        "stability stays near it."
    )
    figure = curvature(frame, colors=subject.colors)
    return html_page.section(
        "Curvature", lead, html_page.picture(figure, "largest Hessian eigenvalue and batch sharpness")
    )


def drift_section(subject: Subject) -> str:
    """Same-batch drift per layer, before and after the normalisation."""
    frames = {site: read(subject.runs, "drift", where={"site": site}) for site in _DRIFT_SITES}
    recorded = {site: frame for site, frame in frames.items() if frame is not None}
    if not recorded:
        anywhere = read(subject.runs, "drift")
        if anywhere is None:
            return ""
        site = str(anywhere["site"].iloc[0])
        recorded = {site: anywhere[anywhere["site"] == site]}
    lead = (
        "How far the distribution of a layer's values on one fixed batch moved, by one update (first row) and by all "
        "updates since the reference step (second row): Wasserstein-1 distance in standard deviations, mean over "
        "channels. No number holds what sampling another batch does. The noise floor (dashed) is the same distance "
        "between the two halves of that batch; with half as many values each it overstates what sampling changes."
    )
    pictures = [
        html_page.picture(drift(frame, site=site, colors=subject.colors), f"same-batch drift at the site {site}")
        for site, frame in recorded.items()
    ]
    return html_page.section("Same-batch drift", lead, *pictures)


def normalization_section(subject: Subject) -> str:
    """The smoothing budget of BatchNorm, gamma and beta."""
    frame = read(subject.runs, "normalization", columns=_NORMALIZATION_COLUMNS)
    if frame is None:
        return ""
    lead = (
        "What BatchNorm does to the gradient on its way from its output to its input (Santurkar et al. 2018, Thm 4.1): "
        "it rescales it by gamma/sigma, and takes away what lies along the mean and along the normalised values. The "
        "squared lengths were measured in training's own backward pass; 1 means no change. "
        f"{_agreement(frame['theorem_error'])}"
    )
    figure = normalization(frame, colors=subject.colors)
    return html_page.section("Normalisation", lead, html_page.picture(figure, "smoothing budget, gamma and beta"))


def _agreement(errors: pd.Series) -> str:
    """Say how far the measured lengths were from the theorem, which stands in for a noise floor."""
    if errors.notna().any():
        return f"In place of a noise floor: what the theorem predicts was off by at most {number(errors.max())} of it."
    return "The theorem covers BatchNorm in training mode only, of which there is none here."


def absent(title: str, table: str) -> str:
    """Return a section that says that no run has recorded its table."""
    text = f"Not recorded: no run holds rows of the table {table}."
    return html_page.section(title, "", html_page.paragraph(text, kind="quiet"))


FIGURES: Mapping[str, Callable[[Subject], str]] = {
    "Training": training_section,
    "Gradient shift": gradient_shift_section,
    "Where the shift comes from": attribution_section,
    "Loss landscape": gradient_line_section,
    "Curvature": curvature_section,
    "Activations": activations_section,
    "Same-batch drift": drift_section,
    "Normalisation": normalization_section,
}
"""The sections in the order of the page, by their titles."""
