"""Tables of trainings that never were: losses that fall at a given rate, distributions that move at a given pace."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ics.claims import Effect

SEEDS = range(5)
NUM_STEPS = 100
Rows = list[dict[str, Any]]


def losses(net: str, rate: float, *, seeds: Iterable[int] = SEEDS, num_steps: int = NUM_STEPS, **logged: float) -> Rows:
    """The loss ln(10) exp(-rate step), from seed to seed a percent faster; at every tenth step what was logged."""
    rows: Rows = []
    for seed in seeds:
        for step in range(num_steps):
            loss = math.log(10) * math.exp(-rate * (1 + 0.01 * seed) * step)
            wobble = 1 + 0.001 * seed
            row = {"net": net, "seed": seed, "step": step, "loss": loss}
            values = {name: number * wobble if step % 10 == 0 else math.nan for name, number in logged.items()}
            rows.append(row | values)
    return rows


def diverging(net: str, *, seeds: Iterable[int] = SEEDS, **logged: float) -> Rows:
    """A loss that is NaN from the middle on."""
    rows = losses(net, 0.0, seeds=seeds, **logged)
    return [row | ({"loss": math.nan} if row["step"] >= NUM_STEPS // 2 else {}) for row in rows]


def distributions(
    net: str,
    *,
    pace: float = 0.1,
    spread: float = 0.0,
    skewing: float = 0.0,
    kurtosis: float = 0.0,
    mean: float = 0.0,
    sites: Sequence[str] = ("input", "preactivation", "activation"),
    layers: Sequence[str] = ("linear1", "linear2", "linear3"),
    seeds: Iterable[int] = SEEDS,
) -> Rows:
    """Three channels whose mean grows by `pace`, log variance by `spread` and skewness by `skewing` per number."""
    rows: Rows = []
    for seed in seeds:
        for number, step in enumerate((0, 20, 40)):
            for index, layer in enumerate(layers):
                for site in sites:
                    factor = 1 + 0.01 * seed
                    variance = np.exp(np.full(3, spread * number * factor))
                    moments = {
                        "mean": np.full(3, mean + pace * number * factor),
                        "m2": variance,
                        "m3": np.full(3, skewing * number * factor) * variance**1.5,
                        "m4": (3 + np.full(3, kurtosis * factor)) * variance**2,
                    }
                    keys = {"net": net, "seed": seed, "step": step, "layer": layer, "layer_index": index, "call": 0}
                    pooled = {name: float(values.mean()) for name, values in moments.items()}
                    channels = {f"channel_{name}": values for name, values in moments.items()}
                    rows.append(keys | {"site": site} | pooled | channels)
    return rows


def named(effects: Iterable[Effect], measure: str, setting: str | None = None) -> Effect:
    """The one effect with this measure (and setting)."""
    found = [one for one in effects if one.measure == measure and (setting is None or one.setting == setting)]
    (effect,) = found
    return effect
