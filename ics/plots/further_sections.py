"""Sections of the report for tables that not every run holds: each is there only where its table was recorded."""

from __future__ import annotations

import pandas as pd

from ics.analysis.reading import read
from ics.analysis.sentences import number
from ics.plots import budget, drifts, edges, matrix, page
from ics.plots.sections import Subject

TABLES = ("attribution", "curvature", "drift", "normalization")
_DRIFT_SITES = ("preactivation", "scaled")
_NORMALIZATION_COLUMNS = (
    *("step", "layer", "layer_index", "call", "output_gradient_squared", "rescaled_gradient_squared", "mean_term"),
    *("normalized_term", "input_gradient_squared", "theorem_error", "channel_weight", "channel_bias"),
)


def attribution(subject: Subject) -> str:
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
    figure = matrix.attribution(frame, colors=subject.colors)
    return page.section("Where the shift comes from", lead, page.picture(figure, "shares of the shift by source layer"))


def curvature(subject: Subject) -> str:
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
    figure = edges.curvature(frame, colors=subject.colors)
    return page.section("Curvature", lead, page.picture(figure, "largest Hessian eigenvalue and batch sharpness"))


def drift(subject: Subject) -> str:
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
        page.picture(drifts.drift(frame, site=site, colors=subject.colors), f"same-batch drift at the site {site}")
        for site, frame in recorded.items()
    ]
    return page.section("Same-batch drift", lead, *pictures)


def normalization(subject: Subject) -> str:
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
    figure = budget.normalization(frame, colors=subject.colors)
    return page.section("Normalisation", lead, page.picture(figure, "smoothing budget, gamma and beta"))


def _agreement(errors: pd.Series) -> str:
    """Say how far the measured lengths were from the theorem, which stands in for a noise floor."""
    if errors.notna().any():
        return f"In place of a noise floor: what the theorem predicts was off by at most {number(errors.max())} of it."
    return "The theorem covers BatchNorm in training mode only, of which there is none here."
