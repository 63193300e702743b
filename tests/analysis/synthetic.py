"""Runs made up of numbers drawn here, in exactly the columns of the schema: what analysis and plots are tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ics.buckets import HIGHEST_EXPONENT, LOWEST_EXPONENT, OVERFLOW, SUB_BUCKETS
from ics.store import Run, Writer, open_run

LAYERS = ("features.0", "features.3", "features.6", "classifier")


def histogram_of(x: np.ndarray) -> tuple[list[int], list[int]]:
    """Bucket numbers and counts of the finite values, straight from the definition in ics.buckets."""
    x = x[np.isfinite(x)]
    mantissa, exponent = np.frexp(np.abs(x))
    octave = exponent - 1
    sub = np.floor((2 * mantissa - 1) * SUB_BUCKETS).astype(int)
    number = (octave - LOWEST_EXPONENT) * SUB_BUCKETS + sub + 1
    number = np.where(octave < LOWEST_EXPONENT, 0, number)
    number = np.where(octave > HIGHEST_EXPONENT, OVERFLOW, number) * np.where(x < 0, -1, 1)
    buckets, counts = np.unique(np.where(x == 0, 0, number), return_counts=True)
    return buckets.tolist(), counts.tolist()


def activation_row(x: np.ndarray, **keys: Any) -> dict[str, Any]:
    """A row of the table activations for values x of shape (m, channels)."""
    values = np.asarray(x, dtype=np.float64).ravel()
    buckets, counts = histogram_of(values)
    row = _moments_of(values) | {
        "minimum": values.min(),
        "maximum": values.max(),
        "zero_fraction": float(np.mean(values == 0)),
        "negative_fraction": float(np.mean(values < 0)),
        "nonfinite_count": 0,
        "histogram_bucket": np.array(buckets),
        "histogram": np.array(counts),
        "saturated_fraction": np.nan,
        "null_reason": None,
    }
    channels = [_moments_of(column) for column in np.asarray(x, dtype=np.float64).reshape(len(x), -1).T]
    row |= {
        f"channel_{name}": np.array([one[name] for one in channels]) for name in ("count", "mean", "m2", "m3", "m4")
    }
    defaults = {
        "step": 0,
        "layer": "features.0",
        "layer_index": 0,
        "call": 0,
        "site": "preactivation",
        "source": "Linear",
    }
    return defaults | row | keys


def _moments_of(values: np.ndarray) -> dict[str, Any]:
    mean = values.mean()
    central = {f"m{order}": np.mean((values - mean) ** order) for order in (2, 3, 4)}
    return {"count": len(values), "mean": mean, **central}


def steps_frame(num_steps: int = 40, *, scale: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """A training of which every tenth step is measured; accuracy is logged at every twentieth."""
    random = np.random.default_rng(seed)
    step = np.arange(num_steps)
    measured = step % 10 == 0
    loss = scale * (0.2 + 2 * np.exp(-step / 15)) * np.exp(0.05 * random.standard_normal(num_steps))
    return pd.DataFrame(
        {
            "step": step,
            "loss": loss,
            "learning_rate": np.where(measured, 0.1, np.nan),
            "gradient_norm": np.where(measured, 1.0, np.nan),
            "update_norm": np.where(measured, 0.1, np.nan),
            "regulariser": np.where(measured, 0.0, np.nan),
            "measured": measured,
            "duration": np.where(measured, 0.03, 0.01),
            "measuring_duration": np.where(measured, 0.1, np.nan),
            "test_accuracy": np.where(step % 20 == 0, 1 - 0.8 * np.exp(-step / 20), np.nan),
        }
    )


def shift_frame(
    *, shift: float = 0.5, steps: Sequence[int] = (0, 10, 20, 30), layers: Sequence[str] = LAYERS, seed: int = 0
) -> pd.DataFrame:
    """Shifts of about `shift` times the floor; the first layer has exactly 0, and no floor at the first step."""
    random = np.random.default_rng(seed)
    rows = []
    for step in steps:
        for index, layer in enumerate(layers):
            for parameters in ("weight", "all"):
                norm = float(np.exp(random.normal(0, 0.1))) * 2 / (1 + index)
                floor = 1.3 * norm * float(np.exp(random.normal(0, 0.05)))
                moved = 0.0 if index == 0 else shift * floor * float(np.exp(random.normal(0, 0.1)))
                has_floor = step > 0
                rows.append(
                    {
                        "step": step,
                        "layer": layer,
                        "layer_index": index,
                        "parameters": parameters,
                        "gradient_norm": norm,
                        "shifted_gradient_norm": norm,
                        "shift_l2": moved,
                        "shift_cosine": max(1 - 0.5 * (moved / norm) ** 2, -1.0),
                        "shift_relative": moved / norm,
                        "floor_l2": floor if has_floor else np.nan,
                        "floor_cosine": 0.19 if has_floor else np.nan,
                        "floor_relative": floor / norm if has_floor else np.nan,
                        "null_reason": None if has_floor else "no second batch",
                    }
                )
    return pd.DataFrame(rows)


def line_frame(
    *, curvature: float = 5.0, rate: float = 0.1, steps: Sequence[int] = (0, 10, 20, 30), seed: int = 0
) -> pd.DataFrame:
    """The profile of the quadratic loss curvature/2 w^2 + 1, for which beta is `curvature` at every eta."""
    random = np.random.default_rng(seed)
    rows = []
    for step in steps:
        w = float(np.exp(-step / 40 + random.normal(0, 0.1)))
        g = curvature * w
        for direction in ("gradient", "update"):
            for eta in (0.0, *(rate * np.geomspace(0.5, 4, 8))):
                rows.append(
                    {
                        "step": step,
                        "layer": "(all)",
                        "direction": direction,
                        "draw": 0,
                        "eta": eta,
                        "distance": eta * g,
                        "loss": 1 + curvature / 2 * (w - eta * g) ** 2,
                        "gradient_change_l2": abs(curvature * eta * g),
                        "gradient_norm": g,
                        "predicted_change": -eta * g**2,
                        "taylor_error": np.nan if eta == 0 else curvature * eta / 2,
                        "learning_rate": rate,
                        "null_reason": None,
                    }
                )
    return pd.DataFrame(rows)


def activations_frame(
    *, drift: float = 0.5, steps: Sequence[int] = (0, 10, 20, 30), layers: Sequence[str] = LAYERS, seed: int = 0
) -> pd.DataFrame:
    """Normal pre-activations whose means move by `drift` standard deviations over the run, and their ReLU."""
    random = np.random.default_rng(seed)
    rows = []
    for step in steps:
        for index, layer in enumerate(layers):
            moved = drift * (step - steps[0]) / max(steps[-1] - steps[0], 1)
            x = random.standard_normal((200, 5)) * (1 + index) + moved * (1 + index)
            keys = {"step": step, "layer": layer, "layer_index": index}
            rows.append(activation_row(x, **keys, site="preactivation"))
            rows.append(activation_row(np.maximum(x, 0), **keys, site="activation", source="ReLU"))
    return pd.DataFrame(rows)


def make_run(folder: Path, net: str, seed: int | None = 0, *, without: Sequence[str] = (), **how: Any) -> Run:
    """Write a run of `net` into a folder of runs and open it.

    `how` sets shift, curvature, drift, rate, scale, steps, layers as in the frames above; `notes` and `state` of
    run.json; `config`, further settings.
    """
    steps, layers = how.get("steps", (0, 10, 20, 30)), how.get("layers", LAYERS)
    number, rate = seed or 0, how.get("rate", 0.1)
    frames = {
        "steps": steps_frame(max(steps) + 10, scale=how.get("scale", 1.0), seed=number),
        "gradient_shift": shift_frame(shift=how.get("shift", 0.5), steps=steps, layers=layers, seed=number),
        "gradient_line": line_frame(curvature=how.get("curvature", 5.0), rate=rate, steps=steps, seed=number),
        "activations": activations_frame(drift=how.get("drift", 0.5), steps=steps, layers=layers, seed=number),
    }
    frames |= how.get("frames", {})
    info = {
        "config": {"net": net, "learning_rate": rate, "steps": 40, "seed": seed} | how.get("config", {}),
        "seed": seed,
        "device": "cpu",
        "versions": {"python": "3.11", "torch": "2.15"},
        "instruments": {"gradient_shift": "every(10)"},
        "notes": how.get("notes", []),
        "layers": [
            {"name": layer, "index": index, "kind": "Linear", "shape": [5, 5], "num_parameters": 30}
            for index, layer in enumerate(layers)
        ],
    }
    writer = Writer(folder / f"{net}-{seed}", info=info)
    for table, frame in frames.items():
        if table not in without:
            writer.append(table, {name: _cells(frame[name]) for name in frame.columns})
    writer.close(how.get("state", "completed"))
    return open_run(writer.path)


def _cells(column: pd.Series) -> list[Any]:
    """Cells as a recorder hands them in: null is None."""
    return [None if np.ndim(cell) == 0 and pd.isna(cell) else cell for cell in column]


def table_of(frames: Mapping[tuple[str, int], pd.DataFrame]) -> pd.DataFrame:
    """The frames of (net, seed) below each other, as `Runs.table` returns them."""
    parts = [frame.assign(run=f"{net}-{seed}", net=net, seed=seed) for (net, seed), frame in frames.items()]
    return pd.concat(parts, ignore_index=True)
