"""Tables of gradient_shift, made up, for which the verdict is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import pandas as pd

SEEDS = range(4)
STEPS, LAYERS = (0, 10), range(4)


def row(*, cosine: float, relative: float, norm: float = 2.0) -> dict[str, float]:
    """A gradient of length `norm`, and G' at this cosine whose distance from it is `relative` times as long.

    ||G'|| solves ||G'||^2 - 2 ||G|| ||G'|| cos + ||G||^2 (1 - relative^2) = 0; the larger root.
    """
    after = norm * (cosine + math.sqrt(cosine**2 - 1 + relative**2))
    return {
        "gradient_norm": norm,
        "shifted_gradient_norm": after,
        "shift_l2": relative * norm,
        "shift_cosine": cosine,
        "shift_relative": relative,
        "floor_l2": 1.0,
    }


def recorded(nets: dict[str, Mapping[str, float]], *, noise: float = 0.01) -> dict[str, pd.DataFrame]:
    """A row per net, seed, step and layer; the first layer has no shift. Seeds differ by `noise`."""
    rows, steps = [], []
    early = {f"{net}, measured from the start": shift for net, shift in nets.items()}
    for (net, shift), seed in product((nets | early).items(), SEEDS):
        own = dict(shift) | {"relative": shift["relative"] * math.exp(noise * (seed - 1.5))}
        steps += [{"net": net, "seed": seed, "step": step, "loss": 2.0 / (1 + step)} for step in STEPS]
        rows += [
            {"net": net, "seed": seed, "step": step, "layer": f"l{layer}", "layer_index": layer, "parameters": "weight"}
            | (row(**own) if layer else row(cosine=1.0, relative=0.0) | {"shift_relative": 0.0})
            for step, layer in product(STEPS, LAYERS)
        ]
    return {"gradient_shift": pd.DataFrame(rows), "steps": pd.DataFrame(steps)}
