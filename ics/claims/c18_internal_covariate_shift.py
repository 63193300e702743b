"""C18: does BatchNorm reduce internal covariate shift, the change of a gradient when earlier layers move?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ics.analysis import after_first_layer, shift_against_floor
from ics.claims.measures.equal_loss import (
    early_pairs,
    final_losses,
    ratios_at_equal_loss,
    shared_names,
    with_and_without_norm,
)
from ics.claims.measures.training import worst_where_diverged
from ics.claims.method.budgets import net_name
from ics.claims.method.claim import Claim
from ics.claims.method.effects import Effect, per_seed, ratio
from ics.claims.method.evidence import Evidence
from ics.claims.method.rules import below

_COLUMNS = (
    "step",
    "layer",
    "layer_index",
    "parameters",
    "gradient_norm",
    "shifted_gradient_norm",
    "shift_l2",
    "shift_cosine",
    "shift_relative",
    "floor_l2",
)
_OVER_LAYERS = "median over layers after the first, then over steps"
_MEASURES = {
    "shift_relative": ("||G - G'|| / ||G||", "1"),
    "shift_angle": ("angle between G and G'", "degree"),
    "shift_over_floor": ("||G - G'|| / ||G - G_b||, G_b the gradient of another batch at the same weights", "1"),
    "shift_l2": ("||G - G'||", "loss/weight"),
}

_VOTING = ("shift_relative", "shift_angle", "shift_over_floor")


def evidence(found: Evidence) -> tuple[Effect, ...]:
    """Ratios BatchNorm / standard of the shift of the layers' weights, by each measure."""
    rows = shifts(found.table("gradient_shift", columns=_COLUMNS, where={"parameters": "weight"}))
    effects = []
    for measure, (meaning, unit) in _MEASURES.items():
        numbers = worst_where_diverged(per_seed(rows, measure), found)
        for name in found.budget.bases:
            effects.append(
                ratio(
                    numbers,
                    net_name("batch", name),
                    net_name("none", name),
                    measure=measure,
                    meaning=f"{meaning}, {_OVER_LAYERS}",
                    unit=unit,
                    setting=name,
                )
            )
    return (*effects, *_at_equal_loss(found, rows), *final_losses(found, shared_names(found.budget)))


def _at_equal_loss(found: Evidence, rows: pd.DataFrame) -> list[Effect]:
    over = "median over layers after the first, then over losses both nets have"
    columns = {measure: (f"{measure}_at_equal_loss", f"{_MEASURES[measure][0]}, {over}", "1") for measure in _VOTING}
    return [
        effect
        for name, nets in early_pairs(found.budget)
        for effect in ratios_at_equal_loss(found, rows, columns, nets=nets, setting=name)
    ]


def shifts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all layers but each run's first, with `shift_angle` in degrees and `shift_over_floor`.

    The angle is 2 atan2(||a - b||, ||a + b||) of the unit vectors a and b along G and G', from the stored lengths: the
    arc cosine of a number close to 1 keeps none of its digits.
    """
    later = after_first_layer(rows)
    before, after = later["gradient_norm"], later["shifted_gradient_norm"]
    # ||a - b||^2 = (||G - G'||^2 - (||G|| - ||G'||)^2) / (||G|| ||G'||), and ||a + b||^2 = 4 - ||a - b||^2
    chord = (later["shift_l2"] ** 2 - (before - after) ** 2) / (before * after)
    chord = chord.clip(0, 4).where(later["shift_cosine"].notna())
    angle = 2 * np.degrees(np.arctan2(np.sqrt(chord), np.sqrt(4 - chord)))
    over_floor = shift_against_floor(rows)["shift_over_floor"]
    return later.assign(shift_angle=angle, shift_over_floor=over_floor.reindex(later.index))


_WHY = "a tenth less is the smallest reduction that counts"

C18 = Claim(
    id="C18",
    nets=with_and_without_norm,
    evidence=evidence,
    rule=tuple(below(f"{measure}{when}", 0.9, why=_WHY) for when in ("", "_at_equal_loss") for measure in _VOTING),
    published="VGG on CIFAR-10, SGD lr 0.1: similar or even larger shift with BatchNorm, by l2 distance and cosine "
    "of single layers (Santurkar et al. 2018, sec. 2.2 and Fig. 2). Ioffe & Szegedy 2015 say that BatchNorm reduces "
    "the shift and measure it as drift of one unit's distribution (their Fig. 1), not so.",
    remark="At equal steps a net that learns is compared with one that may still rest where it began (final_loss), and "
    "a net at rest shifts little; hence the second comparison, at equal loss, added after that was seen. Both nets "
    "train at one learning rate; BatchNorm often bears, and is used with, a larger one, which moves earlier layers "
    "further. ||G - G'|| by itself is shown without a vote: gradients of the two nets differ in scale. This shift is "
    "one definition; how distributions drift is the subject of other rows of this ledger. The nets of the smaller "
    "budgets are shallower than VGG.",
)
