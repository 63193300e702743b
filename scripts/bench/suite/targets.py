"""What was aimed at, and whether the rows meet it. Nothing of a result is typed: a number is in a CSV or is missing.

A ratio of short samples holds no writing: a recorder hands over every 200 steps. What writing one step takes was
measured apart (`disk.py`) and is added here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from scripts.bench.suite.ics_ways import FLUSH_EVERY
from scripts.bench.suite.nets import FULL_SUITE
from scripts.bench.suite.ways import Way


@dataclass(frozen=True, slots=True)
class Target:
    """A number that was aimed at.

    Attributes:
        text: what is asked.
        net, stage, way: the row that answers.
        limit: the largest value that meets it; `column` holds the value.
        note: a fact to read it with, told where it is missed.
    """

    text: str
    net: str
    stage: str
    way: str
    limit: float
    column: str = "ratio"
    note: str = ""


@dataclass(frozen=True, slots=True)
class TargetResult:
    """A target and what came out; `value` is None where it was not measured."""

    text: str
    limit: float
    value: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is met; None where it was not measured."""
        return None if self.value is None else self.value <= self.limit


_STATISTICS = "all activation statistics of all leaf modules, every step"
_MORE = "the same with histograms and output gradients"
_BEYOND = (
    "this way also measures the gradients of the other sites and of all parameters, which the target does not ask for"
)

TARGETS: Sequence[Target] = (
    Target(*("attached, idle step (MLP)", "mlp", "idle", "idle", 1.005)),
    Target(f"{_STATISTICS} (ResNet-18)", "resnet18", "ics", "light", 1.05),
    Target(f"{_STATISTICS} (VGG-16-BN)", "vgg16_bn", "ics", "light", 1.05),
    Target(f"{_MORE} (ResNet-18)", "resnet18", "ics", "gradients", 1.10, note=_BEYOND),
    Target(f"{_MORE} (VGG-16-BN)", "vgg16_bn", "ics", "gradients", 1.10, note=_BEYOND),
    Target(f"{_STATISTICS} (MLP)", "mlp", "ics", "light", 1.5),
    Target("the same, every 10th step (MLP)", "mlp", "ics", "light_10", 1.05),
    Target("kB a step on disk, light (VGG-16-BN)", "vgg16_bn", "disk", "light", 20.0, "kilobytes"),
    Target("kB a step on disk, standard (VGG-16-BN)", "vgg16_bn", "disk", "standard", 60.0, "kilobytes"),
    Target("of it, pooled statistics and histograms", "vgg16_bn", "disk", "histograms", 60.0, "kilobytes"),
)


def with_writing(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the time of writing in the ratios that lack it, and with a column `kilobytes`.

    Added is `writing_ms` of the stage "disk" over the plain step of the same stage and net, where the way is one of
    `ics` and its sample held no whole turn of writing (`timed.time_stage`).
    """
    frame = frame.copy()
    frame["kilobytes"] = frame["bytes_per_record"] / 1000
    writing = frame[frame["stage"] == "disk"].set_index(["net", "way"])
    frame["writing"] = 0.0
    timed = frame["stage"].isin(("idle", "ics", "all")) & (frame["steps_per_round"] % FLUSH_EVERY != 0)
    for index, row in frame[timed].iterrows():
        own = row["way"].removesuffix("_10")
        if (row["net"], own) in writing.index:
            every = 10 if own != row["way"] else 1
            milliseconds = writing.loc[(row["net"], own), "writing_ms"] / every
            frame.loc[index, "writing"] = milliseconds / _plain(frame, row["net"], row["stage"])
    for column in ("ratio", "low", "high"):
        frame[column] += frame["writing"]
    return frame


def target_results(frame: pd.DataFrame, targets: Sequence[Target] = TARGETS) -> list[TargetResult]:
    """Return what came out for each target, of rows `with_writing`."""
    found = []
    for target in targets:
        row = pick(frame, target.net, target.stage, target.way)
        if row is None or pd.isna(row[target.column]):
            found.append(TargetResult(target.text, target.limit, None))
        elif target.column == "ratio":
            why = reason(frame, target, row)
            found.append(TargetResult(target.text, target.limit, row["ratio"], row["low"], row["high"], why=why))
        else:
            found.append(TargetResult(target.text, target.limit, row[target.column], why=target.note))
    return found


def reason(frame: pd.DataFrame, target: Target, row: pd.Series) -> str:
    """Say what the time beyond a plain step went into, as far as it was measured apart."""
    plain = _plain(frame, target.net, target.stage)
    parts = [f"it adds {(row['ratio'] - 1) * plain:.2g} ms to a step of {plain:.3g} ms"]
    writing = pick(frame, target.net, "disk", target.way.removesuffix("_10"))
    if writing is not None:
        step = writing.get("step_us")
        if pd.notna(step):
            parts.append(f"by itself the recorder's part of such a step takes {step:.2g} microseconds")
        parts.append(f"laying out and writing the rows of a recorded step takes {writing['writing_ms']:.2g} ms")
    again = pick(frame, target.net, target.stage, "plain_again")
    if again is not None:
        parts.append(f"a second copy of the plain step came out at {again['ratio']:.3f}")
    return "; ".join([*parts, *([target.note] if target.note else [])])


def _plain(frame: pd.DataFrame, net: str, stage: str) -> float:
    """Return the milliseconds of a plain step."""
    row = pick(frame, net, stage, "plain")
    return float("nan") if row is None else float(row["milliseconds"])


@dataclass(frozen=True, slots=True)
class Contest:
    """Another tool and the way of `ics` that records all of the same and more, on one net in one run."""

    net: str
    rival: str
    own: str
    rival_ratio: float
    own_ratio: float
    rival_low: float
    own_high: float

    @property
    def slower(self) -> bool:
        """Whether the other tool takes longer."""
        return self.rival_ratio > self.own_ratio

    @property
    def clear(self) -> bool:
        """Whether the two intervals do not meet."""
        return self.rival_low > self.own_high if self.slower else self.rival_ratio < self.own_ratio


def contests(frame: pd.DataFrame, ways: Mapping[str, Way]) -> Iterator[Contest]:
    """Yield each tool that records no more than a way of `ics`, beside that way in the same run."""
    for net in FULL_SUITE:
        for name, way in ways.items():
            rival, own = pick(frame, net, "all", name), pick(frame, net, "all", way.within) if way.within else None
            if rival is not None and own is not None and pd.notna(rival["ratio"]):
                yield Contest(net, name, way.within, rival["ratio"], own["ratio"], rival["low"], own["high"])


def pick(frame: pd.DataFrame, net: str, stage: str, way: str) -> pd.Series | None:
    """Return the row of a way, None where there is none."""
    if frame.empty:
        return None
    rows = frame[(frame["net"] == net) & (frame["stage"] == stage) & (frame["way"] == way)]
    return None if rows.empty else rows.iloc[-1]
