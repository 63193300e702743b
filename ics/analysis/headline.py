"""The findings of a set of runs in three plain sentences: what was measured, and in which direction it went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ics.analysis.comparison import FEW_SEEDS, compare, equal_etas
from ics.analysis.run_measures import run_measures
from ics.analysis.run_tables import as_runs, nets_of
from ics.analysis.step_measures import BANDS, SHIFTS, bands_per_step, shifts_per_step, steps_where_less
from ics.store import Run, Runs


def headline(runs: Run | Iterable[Run]) -> tuple[str, str, str]:
    """Say in three sentences what the runs show about gradient shift, loss landscape and activations.

    First: the gradient shift of each net as a multiple of its noise floor. Second: the effective beta along the
    gradient at step sizes that all nets were probed at, and relative to 2/lr. Third: how far the inputs of the
    activation functions drifted over training, and how far from normal they are. For two nets, each sentence says
    which value is smaller and at how many of the measured steps, or that the seeds do not tell the nets apart (the 95 %
    interval of `compare` contains 1). No outcome is assumed, and a measurement that was not recorded is named.

    Args:
        runs: opened runs of any number of nets and seeds.

    Raises:
        UsageError: no runs were given.
    """
    findings = _Findings.of(as_runs(runs))
    return _shift(findings), _landscape(findings), _activations(findings)


def number(value: float) -> str:
    """Return a number for a sentence: three significant digits.

    Example:
        >>> number(0.12345), number(1234567.0), number(float("inf")), number(-float("inf")), number(float("nan"))
        ('0.123', '1.23e6', 'infinite', '-infinite', 'not known')
    """
    if np.isnan(value):
        return "not known"
    if np.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


_LEAST = {"less": "least", "smoother": "smoothest", "lower": "lowest"}


@dataclass(frozen=True)
class _Findings:
    """One value per net and measure (geometric mean over seeds); for two nets also their comparison and every step."""

    nets: list[str]
    values: pd.DataFrame
    comparison: pd.DataFrame | None
    etas: tuple[float, float] | None
    per_step: Mapping[str, pd.DataFrame | None]

    @classmethod
    def of(cls, runs: Runs) -> _Findings:
        by_net = nets_of(runs)
        nets, etas = list(by_net), equal_etas(runs)
        if len(nets) == 2:
            comparison = compare(*by_net.values()).set_index("measure")
            shifts, bands = shifts_per_step(runs), bands_per_step(runs, etas=etas)
            per_step = dict.fromkeys(SHIFTS, shifts) | dict.fromkeys(BANDS, bands)
            return cls(nets, comparison[["a", "b"]].set_axis(nets, axis=1), comparison, etas, per_step)
        per_run = run_measures(runs, etas=etas)
        values = per_run.pivot_table(index="measure", columns="net", values="value", aggfunc=_typical, dropna=False)
        return cls(nets, values.reindex(columns=nets), None, etas, {})

    def value(self, measure: str, net: str) -> float:
        """The value of a net, NaN where it was not measured."""
        return float(self.values[net].get(measure, np.nan))

    def is_measured(self, measure: str) -> bool:
        """Whether any net has a value."""
        return any(not np.isnan(self.value(measure, net)) for net in self.nets)

    def listed(self, measure: str, unit: str = "") -> str:
        """`0.4 std in standard and 0.2 std in bn`."""
        parts = [f"{number(self.value(measure, net))}{unit and ' ' + unit} in {net}" for net in self.nets]
        return _joined(parts)

    def verdict(self, measure: str, word: str) -> str:
        """Which net has the smaller value; the empty string if the values do not allow an answer."""
        values = {net: self.value(measure, net) for net in self.nets}
        if len(values) < 2 or any(np.isnan(value) for value in values.values()):
            return ""
        smallest = min(values, key=lambda net: values[net])
        if self.comparison is None:
            least = [net for net, value in values.items() if value == values[smallest]]
            return f": {_LEAST[word]} in {_joined(least)}"
        row: Any = self.comparison.loc[measure]
        where = f": {word} in {smallest}{self._steps(measure, smallest)}"
        if np.isnan(row["ratio"]):
            return where if len(set(values.values())) > 1 else ": the same in both"
        ratio = f"{self.nets[1]} / {self.nets[0]} = {number(row['ratio'])}"
        if np.isnan(row["low"]):
            return f"{where} ({ratio}; one run on a side, so no interval)"
        seeds = f"{'only ' if row['n'] < FEW_SEEDS else ''}{row['n']} seeds"
        interval = f"{ratio}, 95 % interval {number(row['low'])} to {number(row['high'])}, {seeds}"
        if row["low"] <= 1 <= row["high"]:
            return f": the seeds do not tell them apart ({interval})"
        return f"{where} ({interval})"

    def _steps(self, measure: str, smallest: str) -> str:
        """At how many steps it was smaller: curves may cross, which one number per training would hide."""
        (other,) = (net for net in self.nets if net != smallest)
        found = steps_where_less(self.per_step.get(measure), measure, net=smallest, than=other)
        if found is None or found[1] < 2:
            return ""
        less, steps = found
        how_many = f"{less} of {steps}" if less < steps else "both" if steps == 2 else f"all {steps}"
        return f" at {how_many} measured steps"


def _shift(findings: _Findings) -> str:
    what = "Gradient shift: when the layers before it were updated, a layer's gradient changed by this multiple of"
    if findings.is_measured("shift_over_floor"):
        values, verdict = findings.listed("shift_over_floor"), findings.verdict("shift_over_floor", "less")
        return f"{what} its noise floor: {values}, median over steps{verdict}."
    if findings.is_measured("shift_relative"):
        values, verdict = findings.listed("shift_relative"), findings.verdict("shift_relative", "less")
        missing = "no noise floor was recorded to hold it against"
        return f"{what} its length: {values}, median over steps{verdict}; {missing}."
    return "Gradient shift: not recorded (instrument gradient_shift)."


def _landscape(findings: _Findings) -> str:
    if not findings.is_measured("beta"):
        return "Loss landscape: not recorded (instrument gradient_line)."
    if findings.etas is None:
        return f"Loss landscape: no step size was probed in all nets; effective beta was {_edge(findings)} of 2/lr."
    low, high = (number(end) for end in findings.etas)
    values, verdict = findings.listed("beta"), findings.verdict("beta", "smoother")
    return (
        f"Loss landscape: at step sizes {low} to {high} along the gradient, effective beta was {values} "
        f"({_edge(findings)} of 2/lr), median over steps{verdict}."
    )


def _edge(findings: _Findings) -> str:
    return _joined([number(findings.value("beta_over_edge", net)) for net in findings.nets])


def _activations(findings: _Findings) -> str:
    if not findings.is_measured("mean_shift"):
        return "Activations: not recorded at two steps (instrument activations)."
    moved, verdict = findings.listed("mean_shift", "std"), findings.verdict("mean_shift", "less")
    shapes = [
        f"from {number(findings.value('ks_first', net))} to {number(findings.value('ks_last', net))} in {net}"
        for net in findings.nets
    ]
    return (
        f"Activations: from the first to the last measured step, the mean of what enters an activation function moved "
        f"by {moved}{verdict}; its distance to a normal distribution (Kolmogorov-Smirnov) went {_joined(shapes)}."
    )


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def _typical(values: pd.Series) -> float:
    """Return the geometric mean, or the arithmetic one where a value is not above 0."""
    defined = values.dropna().to_numpy(np.float64)
    if not len(defined):
        return float("nan")
    return float(np.exp(np.log(defined).mean())) if (defined > 0).all() else float(defined.mean())
