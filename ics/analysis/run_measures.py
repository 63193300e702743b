"""One number per run and question: what `compare` and `headline` compare between nets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ics.analysis.activations import HISTOGRAM, entering, normality
from ics.analysis.drift import drift_between
from ics.analysis.run_tables import as_runs, named, read, read_steps
from ics.analysis.step_measures import BANDS, SHIFTS, bands_per_step, shifts_per_step
from ics.analysis.training import last_tenth, logged_measures
from ics.store import Run, Runs


@dataclass(frozen=True, slots=True)
class Measure:
    """What a number means. `has_ratio` is False where the ratio of two values would be meaningless."""

    name: str
    meaning: str
    unit: str
    has_ratio: bool = True


MEASURES = (
    Measure("final_loss", "training loss, mean over the last tenth of the steps", "loss"),
    Measure("shift_l2", "||G - G'||, median over layers after the first, then over steps", "loss/weight"),
    Measure("shift_cosine", "cos(G, G'), median over layers after the first, then over steps", "1", has_ratio=False),
    Measure("shift_relative", "||G - G'|| / ||G||, median over layers after the first, then over steps", "1"),
    Measure(
        "shift_over_floor", "||G - G'|| / ||G - G_b||, median over layers after the first, then over steps", "floor"
    ),
    Measure("loss_range", "largest - smallest loss along the gradient, median over steps", "loss"),
    Measure("gradient_change", "largest change of the gradient along it, median over steps", "loss/weight"),
    Measure("beta", "largest change of the gradient per distance along it, median over steps", "loss/weight^2"),
    Measure("beta_over_edge", "beta as a multiple of 2/lr, median over steps", "2/lr"),
    Measure("mean_shift", "|mean change| from the first to the last measured step, median over layers", "std"),
    Measure(
        "log_variance_ratio", "|ln variance ratio| from the first to the last measured step, median over layers", "1"
    ),
    Measure("ks_first", "KS distance to the fitted normal at the first measured step, median over layers", "1"),
    Measure("ks_last", "KS distance to the fitted normal at the last measured step, median over layers", "1"),
)
_ACTIVATION_COLUMNS = (
    *("step", "layer", "layer_index", "call", "site", "mean", "m2", "m3", "m4", *HISTOGRAM),
    *("channel_mean", "channel_m2", "channel_m3", "channel_m4"),
)


def run_measures(runs: Run | Iterable[Run], *, etas: tuple[float, float] | None = None) -> pd.DataFrame:
    """Return one row per run and measure: `run`, `net`, `seed`, `measure`, `value`, `null_reason`.

    Measures are those of `MEASURES`, and `final_<name>` (the last value) of each further measure the loop logged.
    Those of activations are taken where they enter the activation function: after the normalisation where there is one
    (site scaled), else the pre-activation. What was not recorded is null, with the reason.

    Args:
        runs: one run or several.
        etas: step sizes to use along the gradient; None is all that were probed.
    """
    several = as_runs(runs)
    values: dict[tuple[str, str], float] = {}
    for summarise in _SUMMARIES:
        found = summarise(several, etas)
        if found is None:
            continue
        for column in found.columns:
            values |= {(str(run), str(column)): float(value) for run, value in found[column].items()}
    own = [measure.name for measure in MEASURES]
    names = [*own, *sorted({name for _, name in values} - set(own))]
    rows = [
        {"run": one.name, "net": one.net, "seed": one.seed, "measure": name} | _cell(values.get((one.name, name)))
        for one in named(several)
        for name in names
    ]
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def measure_named(name: str) -> Measure:
    """Return the measure of this name; one that is not in `MEASURES` was logged by the loop."""
    by_name = {measure.name: measure for measure in MEASURES}
    return by_name.get(name, Measure(name, f"last {name.removeprefix('final_')} that the loop logged", "as logged"))


def _cell(value: float | None) -> dict[str, object]:
    if value is None:
        return {"value": np.nan, "null_reason": "not recorded in this run"}
    return {"value": value, "null_reason": "null at every place" if np.isnan(value) else None}


def _summarise_steps(runs: Runs, _: object) -> pd.DataFrame | None:
    frame = read(runs, "steps")
    if frame is None:
        return None
    columns = {}
    for name in logged_measures(frame):
        logged = frame[frame[name].notna()].sort_values("step", kind="stable").groupby("run")[name]
        # One batch decides the last loss, so that one is averaged; accuracies and the like are logged rarely as it is.
        if name == "loss":
            columns["final_loss"] = logged.apply(lambda losses: last_tenth(losses).mean())
        else:
            columns[f"final_{name}"] = logged.last()
    return pd.DataFrame(columns)


def _summarise_shift(runs: Runs, _: object) -> pd.DataFrame | None:
    frame = shifts_per_step(runs)
    return None if frame is None else frame.groupby("run")[list(SHIFTS)].median()


def _summarise_line(runs: Runs, etas: tuple[float, float] | None) -> pd.DataFrame | None:
    frame = bands_per_step(runs, etas=etas)
    return None if frame is None else frame.groupby("run")[list(BANDS)].median()


def first_and_last(runs: Runs) -> pd.DataFrame | None:
    """Return what entered the activation functions at the first and the last measured step of each run."""
    where = {"site": ["scaled", "preactivation"]}
    rows = read_steps(runs, "activations", columns=_ACTIVATION_COLUMNS, where=where, limit=2)
    return None if rows is None else entering(rows)


def _summarise_activations(runs: Runs, _: object) -> pd.DataFrame | None:
    frame = first_and_last(runs)
    if frame is None:
        return None
    moved = drift_between(frame, reference="first")
    columns = moved.groupby("run")[["mean_shift", "log_variance_ratio"]].median()
    shape = normality(frame)
    steps = shape.groupby("run")["step"]
    # An outer join: a run that was measured at one step has a shape but has not moved.
    for name, end in (("ks_first", steps.transform("min")), ("ks_last", steps.transform("max"))):
        columns = columns.join(shape[shape["step"] == end].groupby("run")["ks"].median().rename(name), how="outer")
    return columns


_SUMMARIES: tuple[Callable[[Runs, tuple[float, float] | None], pd.DataFrame | None], ...] = (
    _summarise_steps,
    _summarise_shift,
    _summarise_line,
    _summarise_activations,
)
