"""What was aimed at, and whether the rows meet it. Nothing of a verdict is typed: a number is in a CSV or is missing.

A ratio of a net that is timed step by step holds no writing: a recorder hands over every 200 steps. What writing one
step takes was measured apart (`disk.py`) and is added here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from scripts.bench.suite.nets import FULL_SUITE
from scripts.bench.suite.ways import Way


@dataclass(frozen=True, slots=True)
class Target:
    """A number that was aimed at.

    Attributes:
        text: what is asked.
        net, stage, way: the row that answers.
        limit: the largest value that meets it; `column` holds the value.
        why: the reason, told where it is missed.
    """

    text: str
    net: str
    stage: str
    way: str
    limit: float
    column: str = "ratio"
    why: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
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
_WRITING = (
    "laying out the columns takes the thread that writes about 3 ms a step, since every channel travels to the host "
    "even where only pooled numbers are kept; that those threads of all ways disturb each other's blocks is likely, "
    "and not shown"
)
_PARAMETERS = (
    "the gradients of the parameters are measured too, for which all parameters are copied before the step and read "
    "four times; plain steps alone scatter by a tenth here"
)

TARGETS: Sequence[Target] = (
    Target(
        *("attached, idle step (MLP)", "mlp", "idle", "idle", 1.005),
        why="the same plain steps a second time differ from the first by as much; a step of the recorder takes 7 "
        "microseconds, 0.2 % of this one, most of it the copy of the loss that is logged",
    ),
    Target(f"{_STATISTICS} (ResNet-18)", "resnet18", "ics", "light", 1.05),
    Target(f"{_STATISTICS} (VGG-16-BN)", "vgg16_bn", "ics", "light", 1.05),
    Target(f"{_MORE} (ResNet-18)", "resnet18", "ics", "gradients", 1.10, why=_PARAMETERS),
    Target(f"{_MORE} (VGG-16-BN)", "vgg16_bn", "ics", "gradients", 1.10, why=_PARAMETERS),
    Target(f"{_STATISTICS} (MLP)", "mlp", "ics", "light", 1.5, why=_WRITING),
    Target("the same, every 10th step (MLP)", "mlp", "ics", "light_10", 1.05, why=_WRITING),
    Target("kB a step on disk, light (VGG-16-BN)", "vgg16_bn", "disk", "light", 20.0, "kilobytes"),
    Target("kB a step on disk, standard (VGG-16-BN)", "vgg16_bn", "disk", "standard", 60.0, "kilobytes"),
    Target("of it, pooled statistics and histograms", "vgg16_bn", "disk", "histograms", 60.0, "kilobytes"),
)


def with_writing(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the time of writing in the ratios that lack it, and with a column `kilobytes`.

    Added is `writing_ms` of the stage "disk" over the plain step of the same stage and net, where the way is one of
    `ics` and a round held one step only.
    """
    frame = frame.copy()
    frame["kilobytes"] = frame["bytes_per_record"] / 1000
    writing = frame[frame["stage"] == "disk"].set_index(["net", "way"])
    frame["writing"] = 0.0
    for index, row in frame[frame["stage"].isin(("ics", "all")) & (frame["steps_per_round"] == 1)].iterrows():
        key = row["net"], row["way"].removesuffix("_10")
        if key in writing.index:
            plain = frame[(frame["net"] == row["net"]) & (frame["stage"] == row["stage"]) & (frame["way"] == "plain")]
            frame.loc[index, "writing"] = writing.loc[key, "writing_ms"] / plain["milliseconds"].iloc[0]
    for column in ("ratio", "low", "high"):
        frame[column] += frame["writing"]
    return frame


def verdicts(frame: pd.DataFrame, targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """Return what came out for each target, of rows `with_writing`."""
    found = []
    for target in targets:
        row = pick(frame, target.net, target.stage, target.way)
        if row is None or pd.isna(row[target.column]):
            found.append(Verdict(target.text, target.limit, None))
        elif target.column == "ratio":
            found.append(Verdict(target.text, target.limit, row["ratio"], row["low"], row["high"], why=target.why))
        else:
            found.append(Verdict(target.text, target.limit, row[target.column], why=target.why))
    return found


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
